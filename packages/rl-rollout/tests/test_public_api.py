import subprocess
import sys

import rl_rollout


def test_the_public_names_are_these():
    assert sorted(rl_rollout.__all__) == [
        "Engine", "EngineConfig", "EngineDeadlineError", "EngineError", "EngineNotServingError", "EnginePart",
        "EnginePool",
        "EvalReport", "GenerateContext", "GenerateFunction", "GenerateRequest", "Generation",
        "MultiTurn", "RLRolloutError", "RequestError", "Rollout", "RolloutConfig",
        "RolloutConfigError", "RolloutResult", "RolloutStarvedError", "SGLangEngine", "SamplingParams", "evaluate",
        "grade_many", "per_sample", "single_turn",
    ]  # fmt: skip
    assert all(hasattr(rl_rollout, name) for name in rl_rollout.__all__)


def test_importing_the_package_loads_no_heavy_library():
    heavy = ("torch", "sglang", "ray", "transformers")
    program = f"import sys, rl_rollout; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_error_crosses_process_borders():
    import pickle

    for name in rl_rollout.__all__:
        if name.endswith("Error"):
            error = pickle.loads(pickle.dumps(getattr(rl_rollout, name)("engine 3: no")))  # noqa: S301
            assert str(error) == "engine 3: no"
