"""The prompt of a session: sections in a fixed order, which Parley joins, and a text that follows the history."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel, Field

PRE_SYSTEM: Final = "You take part in a role play. Stay in your role, and never speak for the user."
SYSTEM: Final = "Write in the present tense, two paragraphs at most. Describe what the character does and says."
POST_SYSTEM: Final = "Answer as the character, in the language of the user's last message."


class Model(BaseModel):
    """The model of a session."""

    label: str = Field(default="", max_length=128, description="A model alias of Parley; empty: its default")


class Description(BaseModel):
    """A character, or the profile of the user."""

    description: str = Field(min_length=1, max_length=20_000)


class Session(BaseModel):
    """The settings of a session, which stay as they were when it was made."""

    title: str = Field(default="", max_length=60)
    ai_model: Model = Model()
    character: Description = Description(description="Captain Mara sails an airship, jokes dryly, and fears nothing.")
    user_profile: Description = Description(description="The user is a new member of her crew.")

    def fields(self) -> dict[str, Any]:
        """Returns the fields of Parley's `Conversation`."""
        return {
            "system": [PRE_SYSTEM, SYSTEM, self.character.description, self.user_profile.description],
            "post_system": POST_SYSTEM,
            "model": self.ai_model.label,
        }
