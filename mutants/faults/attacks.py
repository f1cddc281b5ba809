"""Faults in attacks: a loop that is not the published one, and an official file that is refused."""

from __future__ import annotations

from ..fault import Fault

_LOOPS = "tests/attacks/test_generative.py"
_VIEWS = "tests/attacks/stages/test_views.py"
_SIDE_BY_SIDE = "tests/attacks/side_by_side"

FAULTS: tuple[Fault, ...] = (
    Fault(
        name="the NumPy numbers of an official generator are refused",
        path="dpmi/attacks/priors/style/stylegan2_ada.py",
        old='        ("numpy.core.multiarray", "scalar"): _number,\n',
        new="",
        tests=("tests/attacks/priors/style/test_stylegan2_ada.py::test_numbers_of_either_numpy_are_read",),
    ),
    Fault(
        name="lomma-ked-mi does not clamp its samples",
        path="dpmi/attacks/lomma.py",
        old="limit: ClassVar[float | None] = LIMIT",
        new="limit: ClassVar[float | None] = None",
        tests=(f"{_LOOPS}::test_ked_mi_takes_the_steps_of_the_published_loop",),
    ),
    Fault(
        name="vmi divides the divergence by the latent size",
        path="dpmi/attacks/vmi.py",
        old="kl_weight=self.kl_weight,",
        new="kl_weight=self.kl_weight / gan.generator.latent_size,",
        tests=(f"{_LOOPS}::test_vmi_weighs_the_whole_divergence",),
    ),
    Fault(
        name="gmi has the rate of a batch for a single class",
        path="dpmi/attacks/gmi.py",
        old="RATE = 0.02 / 100",
        new="RATE = 0.02",
        tests=(f"{_LOOPS}::test_the_learning_rates_of_gmi_are_the_published_ones_per_class",),
    ),
    Fault(
        name="if-gmi searches the seventh block in a ball of 7000",
        path="dpmi/attacks/if_gmi.py",
        old="RADII = (1, 2, 3, 4, 5, 6, 8, 8)",
        new="RADII = (1, 2, 3, 4, 5, 6, 7, 8)",
        tests=("tests/attacks/test_if_gmi.py",),
    ),
    Fault(
        name="a view crops the same share of every image",
        path="dpmi/attacks/stages/views.py",
        old="side = (AREA[0] + area * (largest - AREA[0])).sqrt()",
        new="side = (AREA[0] + area[:1] * (largest - AREA[0])).sqrt().expand(len(area))",
        tests=(f"{_VIEWS}::test_each_image_has_a_view_of_its_own_as_published",),
    ),
    Fault(
        name="minibatch discrimination starts like any linear layer",
        path="dpmi/attacks/priors/networks.py",
        old="        nn.init.normal_(self.tensor.weight)\n",
        new="",
        tests=("tests/attacks/priors/test_networks.py",),
    ),
    Fault(
        name="brep-mi divides the step of a growth by the radius before it",
        path="dpmi/attacks/brep_mi.py",
        old=" * before / radius[active]",
        new="",
        tests=("tests/attacks/test_brep_mi.py::test_moves_as_published_when_the_radius_grows_too",),
    ),
    Fault(
        name="candidates of ppa are scored with every layer truncated",
        path="dpmi/attacks/stages/styles.py",
        old="images = generator.images(ws)",
        new="images = generator.images(generator.repeat(ws[:, 0]))",
        tests=("tests/attacks/stages/test_styles.py",),
    ),
    Fault(
        name="ppa has the usual betas of Adam",
        path="dpmi/attacks/style_attack.py",
        old="betas=(0.1, 0.1)",
        new="betas=(0.9, 0.999)",
        tests=(f"{_SIDE_BY_SIDE}/test_ppa.py",),
    ),
    Fault(
        name="mirror's rate falls over the last fifth",
        path="dpmi/attacks/mirror.py",
        old="RISE, FALL = 0.05, 0.25",
        new="RISE, FALL = 0.05, 0.2",
        tests=(f"{_SIDE_BY_SIDE}/test_mirror.py",),
    ),
    Fault(
        name="if-gmi's balls are around the origin",
        path="dpmi/attacks/stages/features.py",
        old="start + onto_l1_ball(moved - start, self._radius)",
        new="onto_l1_ball(moved, self._radius)",
        tests=(f"{_SIDE_BY_SIDE}/test_if_gmi.py",),
    ),
    Fault(
        name="ked-mi only maximises the evidence of an image",
        path="dpmi/attacks/ked_mi.py",
        old="return F.softplus(evidence) - evidence",
        new="return -evidence",
        tests=(f"{_SIDE_BY_SIDE}/test_ked_mi.py",),
    ),
    Fault(
        name="brep-mi counts moves at all radii",
        path="dpmi/attacks/brep_mi.py",
        old="            accepted[active[grows]] = 0\n",
        new="",
        tests=(f"{_SIDE_BY_SIDE}/test_brep_mi.py",),
    ),
    Fault(
        name="plg-mi changes the light of every image in training",
        path="dpmi/attacks/priors/conditional_gan.py",
        old="JITTERED = 0.5",
        new="JITTERED = 1.0",
        tests=(f"{_SIDE_BY_SIDE}/test_training.py",),
    ),
    Fault(
        name="the critic of gmi is only kept from slopes above 1",
        path="dpmi/attacks/priors/wgan_gp.py",
        old="(lengths - 1).square()",
        new="(lengths - 1).relu().square()",
        tests=(f"{_SIDE_BY_SIDE}/test_training.py",),
    ),
)
