"""Everything that concerns SGLang. Only the process that hosts an engine imports SGLang itself."""
