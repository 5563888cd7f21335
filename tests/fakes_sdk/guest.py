"""What an instance does with a pickled call, in a process of its own: guest.py BUNDLE_FOLDER HANDLER, call on stdin.

Not here: sandboxes. The answer on stdout is one byte (R or E), then a pickle; for E a JSON line with type, message and
traceback comes first.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import sys
import traceback
import types
from pathlib import Path


def main() -> None:
    folder, handler = sys.argv[1:3]
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    sys.modules["_quilt_guest"] = types.ModuleType("_quilt_guest")
    sys.path[0] = folder
    os.chdir(folder)
    import cloudpickle

    try:
        module, _, name = handler.partition(":")
        if handler == "pickle:function":
            function = pickle.loads(Path("function.pkl").read_bytes())
        else:
            function = importlib.import_module(module)
            for part in name.split("."):
                function = getattr(function, part)
        function = getattr(function, "__quilt_function__", function)
        args, kwargs = pickle.loads(sys.stdin.buffer.read())
        answer = b"R" + cloudpickle.dumps(function(*args, **kwargs))
    except BaseException as error:
        about = {"type": type(error).__name__, "message": str(error), "traceback": traceback.format_exc()}
        answer = b"E" + json.dumps(about).encode() + b"\n" + cloudpickle.dumps(error)
    out.write(answer)
    out.close()


if __name__ == "__main__":
    main()
