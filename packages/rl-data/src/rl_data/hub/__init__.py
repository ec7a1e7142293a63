"""The Hugging Face hub: what is fetched from it, and how that is checked."""

from rl_data.hub.catalog import CATALOG, HubRepo
from rl_data.hub.download import Download, download

__all__ = ["CATALOG", "Download", "HubRepo", "download"]
