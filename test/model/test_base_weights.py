# SPDX-License-Identifier: Apache-2.0
import argparse
import copy
import hashlib
import zipfile
from dataclasses import replace

import pytest
import torch
from sam2.build_sam import build_sam2
from torch.overrides import TorchFunctionMode

from mlesam_ros.errors import CheckpointError, FileError
from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.backbones import HIGH_RES_0, HIGH_RES_1, SEMANTIC, build_backbone
from mlesam_ros.model.checkpoint import (
    describe_key_mismatch,
    load_backbone,
    load_base,
    load_checkpoint,
    read_tensors,
    save_backbone,
    save_checkpoint,
    weights_sha256,
)
from mlesam_ros.model.decoder import ClassMLPs, MaskDecoder
from mlesam_ros.model.mlesam import MLESAM
from mlesam_ros.model.model_config import MLESAMConfig
from mlesam_ros.model.weights import FOLDER_VARIABLE, PUBLISHED

SIX = LabelSpace("six", tuple("abcdef"), ((0, 0, 0),) * 6)


@pytest.fixture(scope="module")
def sam2():
    """Meta's own model with random weights."""
    torch.manual_seed(0)
    return build_sam2("configs/sam2.1/sam2.1_hiera_t.yaml", device="cpu")


@pytest.fixture(scope="module")
def published(sam2, tmp_path_factory):
    """Those weights in a file as Meta publishes them."""
    path = tmp_path_factory.mktemp("meta") / "sam2.1_hiera_tiny.pt"
    torch.save({"model": sam2.state_dict()}, path)
    return path


@pytest.fixture(scope="module")
def model(published):
    model = MLESAM(MLESAMConfig(backbone="hiera_tiny", label_space=SIX, rank=2)).eval()
    load_base(model, published)
    return model


@pytest.fixture(scope="module")
def older(tmp_path_factory):
    """SAM 2.0's layout, which lacks three tensors of 2.1's memory."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("meta") / "sam2_hiera_tiny.pt"
    sam = build_sam2("configs/sam2/sam2_hiera_t.yaml", device="cpu")
    torch.save({"model": sam.state_dict()}, path)
    return sam, path


def test_sam_2_0_loads_too(older):
    sam, path = older
    model = MLESAM(MLESAMConfig(backbone="hiera_tiny", label_space=SIX, rank=2)).eval()
    load_base(model, path)
    assert weights_sha256(model.backbone) == fingerprint(sam.image_encoder)
    assert torch.equal(model.decoder.no_mask, sam.sam_prompt_encoder.no_mask_embed.weight[0])
    assert torch.equal(model.decoder.conv_s0.weight, sam.sam_mask_decoder.conv_s0.weight)


def fingerprint(encoder):
    """By the definition, of Meta's own module."""
    digest = hashlib.sha256()
    for name, tensor in sorted(encoder.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    return digest.hexdigest()


class LinspaceOnCPU(TorchFunctionMode):
    """Run `torch.linspace` on the CPU: Meta's Hiera reads its values as it is built; the meta device has none."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **{**(kwargs or {}), **({"device": "cpu"} if func is torch.linspace else {})})


@pytest.mark.parametrize("layout", ["sam2", "sam2.1"])
@pytest.mark.parametrize(
    ("name", "config"),
    [("hiera_small", "hiera_s"), ("hiera_base_plus", "hiera_b+"), ("hiera_large", "hiera_l")],
)
def test_the_other_sizes_have_metas_tensors(layout, name, config):
    with torch.device("meta"), LinspaceOnCPU():
        theirs = build_sam2(f"configs/{layout}/{layout}_{config}.yaml", device="meta")
        ours = build_backbone(name)
    assert not describe_key_mismatch(theirs.image_encoder.state_dict(), ours.state_dict())


@pytest.fixture(scope="module")
def first(sam1, shrunk_size):
    """Meta's SAM 1, shrunk, with random weights."""
    torch.manual_seed(2)
    sam = sam1._build_sam(shrunk_size.width, shrunk_size.depth, shrunk_size.heads, list(shrunk_size.globals))
    with torch.no_grad():  # Meta's positional codes start at zero
        for name, parameter in sam.image_encoder.named_parameters():
            if "pos" in name:
                parameter.normal_(std=0.1)
    return sam


@pytest.fixture(scope="module")
def first_file(first, tmp_path_factory):
    path = tmp_path_factory.mktemp("meta") / "sam_vit.pth"
    torch.save(first.state_dict(), path)
    return path


class TestSam1sCheckpoint:
    @pytest.fixture
    def model(self, shrunk_vit, first_file):
        model = MLESAM(MLESAMConfig(backbone=shrunk_vit, label_space=SIX, rank=2)).eval()
        load_base(model, first_file)
        return model

    def test_encoder_equals_metas(self, model, first):
        assert weights_sha256(model.backbone) == fingerprint(first.image_encoder)

    def test_untrained_decoder_equals_metas(self, model, first):
        # Seen as classes, SAM's quality token and its four mask tokens make the same token set; then all must be equal.
        decoder, theirs = model.decoder, first.mask_decoder
        decoder.class_tokens.data[0] = theirs.iou_token.weight[0]
        decoder.class_tokens.data[1:5] = theirs.mask_tokens.weight
        decoder.class_tokens = torch.nn.Parameter(decoder.class_tokens[:5].detach())
        decoder.hypernetworks = five = ClassMLPs(5, (256, 256, 256, 32))
        with torch.no_grad():
            for token, mlp in enumerate(theirs.output_hypernetworks_mlps):
                for layer, linear in enumerate(mlp.layers):
                    five.weights[layer][1 + token] = linear.weight.T
                    five.biases[layer][1 + token] = linear.bias
            images = torch.randn(1, 3, 64, 96)
            pyramid = decoder.project_high_res(model.backbone(images))
            prompts = first.prompt_encoder
            masks, _ = theirs.predict_masks(
                image_embeddings=pyramid[SEMANTIC],
                image_pe=prompts.pe_layer((4, 6))[None],
                sparse_prompt_embeddings=torch.zeros(1, 0, 256),
                dense_prompt_embeddings=prompts.no_mask_embed.weight.reshape(1, -1, 1, 1),
            )
            torch.testing.assert_close(decoder(pyramid)[:, 1:], masks, rtol=1e-4, atol=1e-5)

    def test_mask_tokens_of_sam1_are_assigned_in_turn(self, model, first):
        assert torch.equal(model.decoder.class_tokens, first.mask_decoder.mask_tokens.weight[[1, 2, 3, 1, 2, 3]])

    def test_another_size_is_refused_by_name(self, first_file):
        words = r"is not vit_b: of its 65 .* missing \(blocks\.10\..*another shape .*\. Give sam_vit_b\."
        with pytest.raises(CheckpointError, match=words), torch.device("meta"):
            load_backbone(build_backbone("vit_b"), first_file)

    def test_a_file_without_part_of_the_decoder_is_refused(self, model, first, tmp_path):
        state = {name: t for name, t in first.state_dict().items() if "mask_tokens" not in name}
        torch.save(state, tmp_path / "cut.pth")
        with pytest.raises(CheckpointError, match=r"not SAM's: 1 are missing \(mask_tokens.weight\)"):
            load_base(model, tmp_path / "cut.pth")


class TestMetasCheckpoint:
    def test_pyramid_equals_metas(self, model, sam2):
        images = torch.randn(2, 3, 96, 128)
        with torch.no_grad():
            s0, s1, semantic = sam2.forward_image(images)["backbone_fpn"]
            ours = model.decoder.project_high_res(model.backbone(images))
        for level, expected in ((SEMANTIC, semantic), (HIGH_RES_1, s1), (HIGH_RES_0, s0)):
            torch.testing.assert_close(ours[level], expected, rtol=0, atol=1e-5 * expected.abs().max().item())

    def test_decoder_equals_metas(self, model, sam2):
        # Seen as classes, SAM's object, quality and four mask tokens make the same token set; then all must be equal.
        decoder: MaskDecoder = copy.deepcopy(model.decoder)
        theirs = sam2.sam_mask_decoder
        with torch.no_grad():
            decoder.class_tokens.copy_(
                torch.cat((theirs.obj_score_token.weight, theirs.iou_token.weight, theirs.mask_tokens.weight))
            )
            for token, mlp in enumerate(theirs.output_hypernetworks_mlps):
                for layer, linear in enumerate(mlp.layers):
                    decoder.hypernetworks.weights[layer][2 + token] = linear.weight.T
                    decoder.hypernetworks.biases[layer][2 + token] = linear.bias
            semantic, s1, s0 = torch.randn(2, 256, 5, 4), torch.randn(2, 64, 10, 8), torch.randn(2, 32, 20, 16)
            prompts = sam2.sam_prompt_encoder
            masks = theirs.predict_masks(
                image_embeddings=semantic,
                image_pe=prompts.pe_layer((5, 4))[None],
                sparse_prompt_embeddings=torch.zeros(2, 0, 256),
                dense_prompt_embeddings=prompts.no_mask_embed.weight.reshape(1, -1, 1, 1),
                repeat_image=False,
                high_res_features=[s0, s1],
            )[0]
            ours = decoder({SEMANTIC: semantic, HIGH_RES_1: s1, HIGH_RES_0: s0})
        torch.testing.assert_close(ours[:, 2:], masks, rtol=1e-4, atol=1e-5)

    def test_the_embedding_of_an_empty_memory_takes_no_part(self, model, sam2, tmp_path):
        # SAM 2's image predictor adds it to the semantic map; the plain image path, and ours, do not.
        state = {**sam2.state_dict(), "no_mem_embed": 7 * torch.ones(1, 1, 256)}
        torch.save({"model": state}, tmp_path / "other.pt")
        other = copy.deepcopy(model)
        load_base(other, tmp_path / "other.pt")
        for name, tensor in model.state_dict().items():
            assert torch.equal(other.state_dict()[name], tensor)

    def test_mask_tokens_are_assigned_to_the_classes_in_turn(self, model, sam2):
        # 1 to 3 are SAM's multi-mask outputs; 0, its single-mask output, is for clicks.
        expected = sam2.sam_mask_decoder.mask_tokens.weight[[1, 2, 3, 1, 2, 3]]
        assert torch.equal(model.decoder.class_tokens, expected)

    def test_unused_modules_of_meta_are_not_counted(self, model, sam2):
        trained = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("backbone."))
        decoder = sum(p.numel() for p in model.decoder.parameters())
        theirs = sum(p.numel() for p in sam2.sam_mask_decoder.parameters())
        assert decoder < theirs + 2 * 140_000  # two more hypernetworks than SAM's four
        assert trained < sum(p.numel() for p in sam2.parameters()) - sum(p.numel() for p in model.backbone.parameters())

    def test_another_size_is_refused_by_name(self, published):
        with pytest.raises(CheckpointError, match=r"tiny\.pt is not hiera_nano but hiera_tiny\. Give hiera_nano\."):
            load_backbone(build_backbone("hiera_nano"), published)

    def test_the_other_generation_is_refused_by_name(self, first_file, shrunk_vit):
        words = r"sam_vit\.pth is not hiera_tiny but vit_shrunk\. Give sam2\.1_hiera_tiny or sam2_hiera_tiny\."
        with pytest.raises(CheckpointError, match=words):
            load_backbone(build_backbone("hiera_tiny"), first_file)

    def test_the_other_edition_of_sam2_is_refused_by_name(self, model, older, tmp_path):
        save_checkpoint(tmp_path / "experts.safetensors", model)
        with pytest.raises(CheckpointError, match=r"with SHA-256 .* such as sam2\.1_hiera_tiny\."):
            load_checkpoint(tmp_path / "experts.safetensors", older[1])

    def test_downloaded_weights_are_loaded_by_name(self, model, published, monkeypatch):
        name = "sam2.1_hiera_tiny"
        monkeypatch.setenv(FOLDER_VARIABLE, str(published.parent))
        monkeypatch.setitem(PUBLISHED, name, replace(PUBLISHED[name], size=published.stat().st_size))
        other = MLESAM(MLESAMConfig(backbone="hiera_tiny", label_space=SIX, rank=2))
        load_base(other, name)
        assert other.base_weights == published and weights_sha256(other.backbone) == weights_sha256(model.backbone)

    def test_truncated_file_is_refused(self, published, tmp_path):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(published.read_bytes()[:1_000_000])
        with pytest.raises(CheckpointError, match=r"cut\.pt is truncated or not a weights file"):
            load_backbone(build_backbone("hiera_nano"), cut)


@pytest.fixture
def nano():
    return build_backbone("hiera_nano")


class TestOurs:
    def test_backbone_file_round_trip_is_exact(self, nano, tmp_path):
        save_backbone(tmp_path / "nano.safetensors", nano)
        other = build_backbone("hiera_nano")
        assert weights_sha256(other) != weights_sha256(nano)
        load_backbone(other, tmp_path / "nano.safetensors")
        assert weights_sha256(other) == weights_sha256(nano)

    def test_fingerprint_detects_one_changed_bit(self, nano):
        before = weights_sha256(nano)
        with torch.no_grad():
            weight = nano.trunk.blocks[3].mlp.layers[0].bias
            weight[0] = torch.nextafter(weight[0], torch.tensor(1e9))
        assert weights_sha256(nano) != before

    def test_experts_do_not_change_the_fingerprint(self, nano):
        model = MLESAM(MLESAMConfig())
        model.backbone.load_state_dict(nano.state_dict())
        assert weights_sha256(model.backbone) == weights_sha256(nano)

    def test_truncated(self, nano, tmp_path):
        path = tmp_path / "nano.safetensors"
        save_backbone(path, nano)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="truncated"):
            load_backbone(nano, path)

    def test_unwritable(self, nano, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(FileError, match="cannot be written"):
            save_backbone(tmp_path / "file" / "nano.safetensors", nano)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_garbage_is_refused(nano, tmp_path, content, suffix):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="garbage"):
        load_backbone(nano, path)


def test_a_damaged_pickle_in_a_whole_archive_is_read_or_refused(tmp_path):
    """torch's reader trips over it with errors of a dozen types."""
    whole, path, refused = tmp_path / "whole.pt", tmp_path / "damaged.pt", 0
    torch.save({"model": {"image_encoder.x": torch.zeros(2)}}, whole)
    with zipfile.ZipFile(whole) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    name = next(name for name in files if name.endswith("data.pkl"))
    good = files[name]
    for at in range(len(good)):
        nonfinite_modalities = good[:at] + bytes([good[at] ^ 0x85]) + good[at + 1 :]
        with zipfile.ZipFile(path, "w") as archive:
            for other, data in files.items():
                archive.writestr(other, nonfinite_modalities if other == name else data)
        try:
            assert read_tensors(path)
        except CheckpointError as error:
            assert "damaged.pt" in str(error)
            refused += 1
    assert refused > len(good) / 2


def test_code_in_a_checkpoint_is_not_run(nano, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"model": {"image_encoder.x": Trap()}}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match=r"trap\.pt"):
        load_backbone(nano, tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_a_decoder_that_is_not_sams_is_refused(tmp_path):
    model = MLESAM(MLESAMConfig())
    tensors = {f"image_encoder.{name}": t for name, t in model.backbone.state_dict().items()}
    torch.save({"model": {**tensors, "sam_mask_decoder.iou_token.weight": torch.zeros(1, 96)}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt has a mask decoder that is not SAM's: \d+ are missing"):
        load_base(model, tmp_path / "odd.pt")


def test_no_such_file(nano):
    with pytest.raises(CheckpointError, match=r"there is no weights file nowhere\.pt"):
        load_backbone(nano, "nowhere.pt")


class TestForeignFiles:
    """The error for a file of another type names the type, with a remedy."""

    @pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
    @pytest.mark.parametrize(
        ("content", "what", "remedy"),
        [
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:ab\n", "a Git LFS pointer", "git lfs pull"),
            (b"\n<!DOCTYPE html><html>Log in</html>", "an HTML page", "Download the file itself"),
            (b"", "an empty file", "Download it again"),
            (b"\x1f\x8b\x08\x00rest", "a gzip archive", "Unpack"),
        ],
    )
    def test_foreign_file_type_is_named(self, tmp_path, suffix, content, what, remedy):
        path = tmp_path / f"w{suffix}"
        path.write_bytes(content)
        with pytest.raises(CheckpointError) as refused:
            read_tensors(path)
        assert what in refused.value.message and remedy in refused.value.remedy

    def test_zip_archive_is_refused(self, tmp_path):
        with zipfile.ZipFile(tmp_path / "w.pt", "w") as archive:
            archive.writestr("weights.bin", b"x" * 1000)
        with pytest.raises(CheckpointError, match="is a ZIP archive"):
            read_tensors(tmp_path / "w.pt")

    def test_python_objects_are_refused_with_a_working_remedy(self, nano, tmp_path):
        state = {f"image_encoder.{name}": tensor for name, tensor in nano.state_dict().items()}
        torch.save({"model": state, "args": argparse.Namespace(lr=1)}, tmp_path / "tuned.pt")
        with pytest.raises(CheckpointError) as refused:
            load_backbone(nano, tmp_path / "tuned.pt")
        text = str(refused.value)
        assert "argparse.Namespace" in text and "weights_only" not in text and "\x1b" not in text
        assert "truncated" not in text and "torch.save({'model': model.state_dict()}, FILE)" in refused.value.remedy
        torch.save({"model": state}, tmp_path / "tensors.pt")
        load_backbone(nano, tmp_path / "tensors.pt")

    def test_a_folder(self, nano, tmp_path):
        with pytest.raises(CheckpointError, match="is a folder"):
            load_backbone(nano, tmp_path)
