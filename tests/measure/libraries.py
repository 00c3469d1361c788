"""Where a worker that was carried to this machine finds libtorch and CUDA: beside the Python packages."""
import importlib.util
import os
import pathlib


def folders():
    """Folders of the CUDA libraries that belong to this Python's torch; none where it has no torch."""
    spec = importlib.util.find_spec("torch")
    if spec is None or not spec.submodule_search_locations:
        return []
    torch = pathlib.Path(list(spec.submodule_search_locations)[0])
    return [torch / "lib", *sorted(torch.parent.glob("nvidia/*/lib"))]


def environment():
    """This process's, with LD_LIBRARY_PATH on these folders first."""
    paths = [*map(str, folders()), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(path for path in paths if path)}
