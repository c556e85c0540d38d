"""Sessions with coordinators: the agent that answers one, and the manager that opens and ends them.

Also the renderer of samples that a coordinator names by a recipe.
"""

from fedkd.client.sessions.agent import Agent, ReconnectPolicy, StopReason
from fedkd.client.sessions.recipe_renderer import RecipeRenderer
from fedkd.client.sessions.session_manager import SessionManager

__all__ = ["Agent", "RecipeRenderer", "ReconnectPolicy", "SessionManager", "StopReason"]
