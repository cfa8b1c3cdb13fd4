"""Lesions: a part is replaced by the mean of its output, and the answers that change are counted."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from examples import examples
from model.van import VAN
from training.config import Config, ModelConfig
from training.data.images import LabelledImages
from training.data.samples import Sample
from training.drawn.painter import paint
from training.evaluation.lesion import measure_lesions, observed_means, replaced
from training.evaluation.network_outputs import score
from training.networks.build import build

CODES = ("EOS", "LYT", "NGS")
SIDE = 64
CONFIG = Config.model_validate(
    {
        "name": "drawn",
        "version": "0.0.1",
        "classes": [{"code": code, "name": code} for code in CODES],
        "model": {"variant": "micro", "input_size": SIDE},
        "data": {
            "sources": [
                {"name": "marrow", "folder": "m", "licence": "CC0", "attribution": "drawn"},
                {"name": "blood", "folder": "b", "licence": "CC0", "attribution": "drawn", "tissue": "blood"},
            ]
        },
        "card": {"intended_use": "tests", "licence": "CC0"},
    }
)


def _pictures(count: int, seed: int = 0, blood: int = 0) -> LabelledImages:
    """Drawn cells of each class; the last `blood` of them are of another tissue."""
    images = np.stack([paint(code, seed + n, SIDE).picture for n in range(count) for code in CODES])
    labels = np.tile(np.arange(len(CODES)), count)
    marrow = len(images) - blood
    samples = [
        Sample("marrow" if n < marrow else "blood", CODES[label], f"{n}.png", Path(f"{n}.png"))
        for n, label in enumerate(labels)
    ]
    return LabelledImages(samples, images, labels, [])


def _network(seed: int = 0) -> VAN:
    """A network with strong gates, a layer scale of 1 and a wide head: answers depend on its parts."""
    torch.manual_seed(seed)
    net = VAN("micro", len(CODES)).eval()
    for name, parameter in net.named_parameters():
        if "layer_scale" in name:
            nn.init.ones_(parameter)
        if ".scales." in name:
            parameter.data *= 3
    nn.init.normal_(net.head.weight)
    return net


class _Halves(nn.Module):
    """(x, whole input), as a block of the network returns its output and its gate."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return 2 * x, x


def test_the_mean_is_over_all_pictures_and_positions_of_a_channel() -> None:
    maps, vectors = nn.Conv2d(3, 2, 1), nn.Linear(2, 4)
    tupled = _Halves()
    first, second = torch.randn(5, 3, 4, 6), torch.randn(2, 3, 4, 6)

    def run(x: Tensor) -> tuple[Tensor, Tensor]:
        doubled, whole = tupled(maps(x))
        return vectors(doubled.mean(dim=(2, 3))), whole

    with torch.inference_mode():
        with observed_means({"all": [maps, vectors, tupled]}) as means:
            run(first), run(second)
        both = maps(torch.cat([first, second])).double()
        torch.testing.assert_close(means[maps], both.mean(dim=(0, 2, 3)))
        torch.testing.assert_close(means[tupled], 2 * both.mean(dim=(0, 2, 3)))
        expected = vectors((2 * both).mean(dim=(2, 3)).float()).double().mean(dim=0)  # 7 vectors, each counts once
        torch.testing.assert_close(means[vectors], expected)
        with replaced({tupled: means[tupled]}):
            answers, whole = run(second)
        by_hand = vectors(means[tupled].float()).expand(2, -1)
        torch.testing.assert_close(answers, by_hand)
        torch.testing.assert_close(whole, maps(second))  # the rest of the tuple stays
        torch.testing.assert_close(run(second)[0], vectors((2 * maps(second)).mean(dim=(2, 3))))  # and so does the net


def test_lesions_are_those_of_the_answers_with_and_without_the_part() -> None:
    net, pictures = _network(), _pictures(8)
    lesions = {lesion.part: lesion for lesion in measure_lesions(net, CONFIG, pictures)}
    assert list(lesions) == list(net.parts())
    intact = score(net, CONFIG, pictures.images).argmax(axis=1)
    for part in ("MLKA", "cross-scale attention"):
        modules = net.parts()[part]
        with observed_means({part: modules}) as means:
            score(net, CONFIG, pictures.images)
        with replaced(means):
            without = score(net, CONFIG, pictures.images).argmax(axis=1)
        lesion = lesions[part]
        assert lesion.n == 24
        assert lesion.changed == pytest.approx(np.mean(without != intact))
        assert lesion.changed_low <= lesion.changed <= lesion.changed_high
        assert lesion.accuracy == pytest.approx(np.mean(without == pictures.labels))
        assert lesion.accuracy_change == pytest.approx(lesion.accuracy - np.mean(intact == pictures.labels))
        assert lesion.accuracy_change_low <= lesion.accuracy_change <= lesion.accuracy_change_high
    assert lesions["MLKA"].changed > 0
    assert {lesion.n for lesion in lesions.values()} == {24}


def test_only_pictures_of_the_intended_tissue_count() -> None:
    net, pictures, blood = _network(), _pictures(6), 6
    with_blood = LabelledImages(
        [*pictures.samples[:-blood], *_pictures(6, blood=blood).samples[-blood:]], pictures.images, pictures.labels, []
    )
    of_marrow = LabelledImages(
        pictures.samples[:-blood], pictures.images[:-blood], pictures.labels[:-blood], pictures.unreadable
    )
    assert measure_lesions(net, CONFIG, with_blood) == measure_lesions(net, CONFIG, of_marrow)


@settings(max_examples=examples(6))
@given(st.integers(0, 1000), st.integers(1, 9))
def test_a_part_with_a_constant_output_has_no_effect_at_all(seed: int, count: int) -> None:
    """Not even by rounding: the mean of a constant is the constant."""
    net = _network(seed)
    constant = list(net.parts()["stage 3"])
    for gate in constant:
        for module in gate.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.zeros_(module.weight)
                nn.init.normal_(module.bias)  # type: ignore[arg-type]
    pictures = _pictures(count, seed)
    with observed_means({"stage 3": constant}) as means:
        intact = score(net, CONFIG, pictures.images)
    with replaced(means):
        np.testing.assert_array_equal(score(net, CONFIG, pictures.images), intact)
    lesion = next(lesion for lesion in measure_lesions(net, CONFIG, pictures) if lesion.part == "stage 3")
    assert (lesion.changed, lesion.accuracy_change) == (0, 0)


def test_gates_before_a_projection_of_zero_change_no_answer() -> None:
    net = _network()
    for name, parameter in net.named_parameters():
        if ".attn.proj_2." in name or "pooling.score." in name:
            nn.init.zeros_(parameter)
    lesions = {lesion.part: lesion for lesion in measure_lesions(net, CONFIG, _pictures(4))}
    without_effect = {part for part, lesion in lesions.items() if lesion.changed == 0}
    of_gates = {"MLKA", "MLKA in the blocks", "MLKA in the pooling", "pooling"}
    assert {*of_gates, "stage 1", "stage 2", "stage 3", "stage 4"} <= without_effect


def test_networks_name_their_parts() -> None:
    with torch.device("meta"):
        micro = build(ModelConfig(variant="micro"), 3)
        plain = build(ModelConfig(variant="van_b0"), 3)
        lite = build(ModelConfig(variant="van_mlka_lite0"), 3)
        trunk = build(ModelConfig(variant="efficientnet_lite0"), 3)
    stages = [f"stage {number}" for number in (1, 2, 3, 4)]
    stem = ["stem 3x3", "stem 5x5", "stem 7x7"]
    scales = ["MLKA 3-5-1", "MLKA 5-7-1", "MLKA 7-9-1"]
    mlka = ["MLKA", "MLKA in the blocks", "MLKA in the pooling", *scales]
    assert list(micro.parts()) == [*mlka, *stages, "pooling", "cross-scale attention", *stem]
    assert list(plain.parts()) == ["MLKA", *stages]
    by_stride = ["stage 1/8", "stage 1/16", "stage 1/32"]
    assert list(lite.parts()) == [*mlka, *by_stride, "pooling", "cross-scale attention"]
    assert not trunk.parts()
    assert measure_lesions(trunk, CONFIG, _pictures(1)) == ()


def test_a_part_that_the_network_does_not_use_is_an_error() -> None:
    net = nn.Conv2d(3, 2, 1)
    with pytest.raises(ValueError, match="part 'gate' has a Linear that the network does not use"):
        with observed_means({"gate": [nn.Linear(2, 2)]}):
            net(torch.randn(1, 3, 4, 4))


def test_pictures_of_one_patient_say_nothing_about_others() -> None:
    net, pictures = _network(), _pictures(4)
    of_one = replace(pictures, samples=[replace(sample, patient="one") for sample in pictures.samples])
    lesions = measure_lesions(net, CONFIG, of_one)
    assert {(lesion.changed_low, lesion.changed_high) for lesion in lesions} == {(0, 1)}
    changed = [one for one in lesions if one.accuracy_change]
    assert changed and {(one.accuracy_change_low, one.accuracy_change_high) for one in changed} == {(-1, 1)}
    assert all(one.changed_high < 1 for one in measure_lesions(net, CONFIG, pictures) if one.changed < 1)
