"""Registry of the data sets, and loading by name.

>>> names()[:3]
['digits', 'folder', 'table']
>>> REGISTRY.get("digits").description
'8x8 handwritten digits inside scikit-learn; needs no files'
"""

import inspect
import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

from accountants.plugins import Registry, told
from dpmi.by_name import imported, is_name
from dpmi.data.celeba import load_celeba
from dpmi.data.cifar10 import load_cifar10
from dpmi.data.digits import load_digits
from dpmi.data.faces import load_att_faces, load_faces94, load_gt_faces
from dpmi.data.folder import load_folder
from dpmi.data.folders import FACESCRUB, STANFORD_DOGS, VGGFACE2
from dpmi.data.mnist import load_fashion_mnist, load_mnist, load_mnist_half
from dpmi.data.omniglot import load_omniglot
from dpmi.data.split import Split
from dpmi.data.table import load_table

DATA_ROOT_VARIABLE = "DPMI_DATA"


class Dataset(NamedTuple):
    """A data set of the registry.

    Args:
        name: the name for :func:`load`.
        description: one line, for listings.
        loader: returns the split. Its keyword arguments are the data set's options; an optional first argument ``root``
            is the data root, a path or None.
    """

    name: str
    description: str
    loader: Callable[..., Split]


REGISTRY: Registry[Dataset] = Registry(
    "dpmi.data",
    "data set",
    Dataset,
    (
        Dataset("digits", "8x8 handwritten digits inside scikit-learn; needs no files", load_digits),
        Dataset("folder", "your own images, one subfolder for each class", load_folder),
        Dataset("table", "your own table of numbers and categories, one row per record", load_table),
        Dataset("mnist", "28x28 handwritten digits; public: Omniglot", load_mnist),
        Dataset("mnist-half", "32x32 handwritten digits 0-4; public: digits 5-9", load_mnist_half),
        Dataset("fashion-mnist", "28x28 clothing articles; public: MNIST", load_fashion_mnist),
        Dataset("omniglot", "28x28 characters of 8 alphabets; public: MNIST", load_omniglot),
        Dataset(
            "faces94", "70x60 grey faces of 152 people, augmented; public: AT&T and GT faces", load_faces94
        ),
        Dataset("att-faces", "56x46 grey faces of 40 people; public: GT faces", load_att_faces),
        Dataset("gt-faces", "40x30 grey faces of 50 people; public: AT&T faces", load_gt_faces),
        Dataset("cifar10", "32x32 colour photographs of 5 classes; public: the other 5", load_cifar10),
        Dataset("celeba", "64x64 colour faces of 1,000 people; public: other people", load_celeba),
        Dataset("facescrub", "64x64 colour faces of 100 people; public: other people", FACESCRUB.load),
        Dataset("vggface2", "64x64 colour faces of 100 people; public: other people", VGGFACE2.load),
        Dataset("stanford-dogs", "64x64 colour dogs of 100 breeds; public: other breeds", STANFORD_DOGS.load),
    ),
)
"""The data sets by name: the built-in data sets and those of installed packages."""

names = REGISTRY.names


def check_options(name: str, options: Iterable[str]) -> Callable[..., Split]:
    """Return the loader of a data set; raise an error if it has no such name or options.

    Args:
        name: as for :func:`load`.
        options: names of options.

    Raises:
        ValueError: the name or an option is unknown, or one that has to be given is missing.

    >>> check_options("digits", ["seed"]).__name__
    'load_digits'
    >>> try:
    ...     check_options("digits", ["sed"])
    ... except ValueError as error:
    ...     print(error)
    data set 'digits' has no option 'sed'; its options are seed
    """
    loader = _of_user(name) if is_name(name) else REGISTRY.get(name).loader
    parameters = {key: each for key, each in inspect.signature(loader).parameters.items() if key != "root"}
    given = list(options)
    for option in given:
        if option not in parameters:
            raise ValueError(
                f"data set {name!r} has no option {option!r}; its options are {', '.join(parameters) or 'none'}"
            )
    for option, parameter in parameters.items():
        if option not in given and parameter.default is parameter.empty:
            raise ValueError(f"data set {name!r} needs the option {option!r}")
    return loader


def load(name: str, *, root: Path | str | None = None, **options: Any) -> Split:
    """Load a data set, split into private train, private test and the attacker's public images.

    The same name and options always give the same tensors.

    Args:
        name: one of :func:`names`; or a function of the user that returns a Split, ``module:name`` or ``FILE.py:name``,
            whose keyword arguments are the options.
        root: the data root, the folder that contains the data sets' folders; default: the environment variable
            DPMI_DATA.
        options: options of the data set's loader, such as ``seed`` for a random split.

    Raises:
        ValueError: a name or option is unknown, the data set of a package cannot be used, or a file is truncated or
            corrupt.
        FileNotFoundError: the files are not below the root.

    >>> load("digits", seed=1)
    Split('digits', train=1197, test=300, public=300, classes=10, image_shape=(1, 8, 8))
    """
    loader = check_options(name, options)
    with REGISTRY.calling(name):
        if "root" not in inspect.signature(loader).parameters:
            return loader(**options)
        root = root if root is not None else os.environ.get(DATA_ROOT_VARIABLE)
        return loader(Path(root) if root is not None else None, **options)


def _of_user(name: str) -> Callable[..., Split]:
    function = imported(name)

    @wraps(function)
    def loader(*arguments: Any, **options: Any) -> Split:
        try:
            found = function(*arguments, **options)
            if isinstance(found, Split):  # its images may have changed since they were checked
                for part in (found.train, found.test):
                    replace(part)
        except (Exception, SystemExit) as error:  # the code of the user may raise anything
            raise ValueError(f"data set {name!r} cannot be loaded: {told(error)}") from error
        if not isinstance(found, Split):
            if inspect.iscoroutine(found):
                found.close()  # else Python warns that nobody awaits it
            raise ValueError(
                f"data set {name!r} must be a function that returns a Split; got {type(found).__name__}"
            )
        return found

    return loader
