"""Collections with one folder of image files for each class: FaceScrub, VGGFace2, Stanford Dogs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dpmi.data.files import data_folder, missing
from dpmi.data.image_files import split_files
from dpmi.data.split import Distance, Split

SUFFIXES = {".jpg", ".jpeg", ".png"}


@dataclass(frozen=True)
class FolderCollection:
    """A collection of colour images; some classes are private, the others public.

    Args:
        name: name of the data set.
        folder: folder below the data root, with one folder of jpg and png files for each class.
        distance: the MIA distance.
        citation: authors and publication of the collection.
    """

    name: str
    folder: str
    distance: Distance
    citation: str

    def load(
        self,
        root: Path | None,
        *,
        size: int = 64,
        private: float = 100,
        test_share: float = 0.1,
        public_images: int = 30_000,
        seed: int = 0,
    ) -> Split:
        """Load the collection: images (3, size, size), the private classes in the order of their folders.

        In the papers every class is private, and the public images come from another collection. Images of other
        classes of the same collection are stronger public data.

        Args:
            root: the data root.
            size: height and width of the images after fitting.
            private: number of private classes (at least 2), or their share (below 1).
            test_share: share of each private class's images, rounded up.
            public_images: number of images of the other classes to draw; all of them if there are fewer.
            seed: seed of the private classes, the test images and the public images.

        Raises:
            ValueError: an option is out of range, a class folder is empty, a private class has one image, or a file is
                not an image.
            FileNotFoundError: the folder does not exist or has no class folders.
        """
        holds = "a folder of jpg or png files for each class"
        folder = data_folder(root, self.folder, dataset=self.name, holds=holds)
        files = {path.name: _images(path) for path in sorted(folder.iterdir()) if path.is_dir()}
        if not files:
            raise missing(folder, dataset=self.name, holds=holds)
        generator = np.random.default_rng(seed)
        count = _private_classes(private, len(files))
        drawn = set(generator.permutation(len(files))[:count].tolist())
        return split_files(
            self.name,
            {name: own for index, (name, own) in enumerate(files.items()) if index in drawn},
            {name: own for index, (name, own) in enumerate(files.items()) if index not in drawn},
            size=size,
            test_share=test_share,
            public_images=public_images,
            generator=generator,
            distance=self.distance,
            citation=self.citation,
        )


FACESCRUB = FolderCollection(
    "facescrub",
    "facescrub",
    "ssim",
    "H.-W. Ng, S. Winkler, A data-driven approach to cleaning large face datasets, IEEE International "
    "Conference on Image Processing, 2014",
)
VGGFACE2 = FolderCollection(
    "vggface2",
    "vggface2/train",
    "ssim",
    "Q. Cao, L. Shen, W. Xie, O. M. Parkhi, A. Zisserman, VGGFace2: a dataset for recognising faces across pose "
    "and age, IEEE International Conference on Automatic Face & Gesture Recognition, 2018",
)
STANFORD_DOGS = FolderCollection(
    "stanford-dogs",
    "stanford-dogs/Images",
    "euclidean",
    "A. Khosla, N. Jayadevaprakash, B. Yao, L. Fei-Fei, Novel dataset for fine-grained image categorization, "
    "First Workshop on Fine-Grained Visual Categorization, CVPR, 2011",
)


def _images(folder: Path) -> list[Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not files:
        raise ValueError(f"{folder} must contain the jpg or png files of a class, but has none. Remove it.")
    return files


def _private_classes(private: float, classes: int) -> int:
    count = round(private * classes) if 0 < private < 1 else private
    if not (2 <= count <= classes and count == int(count)):
        raise ValueError(
            f"private must be from 2 to the {classes} classes, or a share below 1 of at least 2 of them; "
            f"got {private}"
        )
    return int(count)
