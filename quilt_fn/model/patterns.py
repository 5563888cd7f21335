"""The patterns of texts that come from outside, each with the words that a refusal has for it.

Not here: the types that use them, beside the models of each concern.
"""

from __future__ import annotations

NAME = r"^[a-z0-9][a-z0-9-]{0,62}$"
ATTACHMENT = r"^[a-z0-9][a-z0-9-]{0,62}:/[^:\x00]+(:ro|:rw)?$"
WITHOUT_NUL = r"^[^\x00]*$"
ABSOLUTE_PATH = r"^/[^\x00]*$"
USER = r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?$"
HANDLER = r"^[A-Za-z_][A-Za-z0-9_.]*[:.][A-Za-z_][A-Za-z0-9_.]*$"
ENVIRONMENT_NAME = r"^[A-Za-z_][A-Za-z0-9_]*$"
REQUIREMENT = r"^[^\s\-#][^\r\n\x00]*$"
BUNDLE_ID = r"^[0-9a-f]{64}$"
PYTHON_MINOR = r"^3\.\d+$"

WORDS = {
    NAME: "a name of lower-case letters, digits and `-` is needed, of at most 63 and with no `-` first",
    ATTACHMENT: "`<volume>:<target>` is needed, with `:ro` to only read; the target is an absolute path below /",
    WITHOUT_NUL: "it must hold no NUL",
    ABSOLUTE_PATH: "an absolute path is needed, one that begins with /",
    USER: "`user` or `user:group` is needed, by name or by number",
    HANDLER: "`module:function` is needed",
    ENVIRONMENT_NAME: "a name of letters, digits and `_` is needed, with no digit first",
    REQUIREMENT: "the line of one requirement is needed, such as `six==1.16.0`: no option, no comment, no line break",
    BUNDLE_ID: "the id of a bundle is needed: the 64 hexadecimal digits that an upload answers",
    PYTHON_MINOR: "the minor version of a Python is needed, such as 3.13",
}
