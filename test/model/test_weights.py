import copy

import pytest
import torch
from sam2.build_sam import build_sam2

from mlesam_ros.errors import CheckpointError
from mlesam_ros.labels import LabelSpace
from mlesam_ros.model.backbones import HIGH_RES_0, HIGH_RES_1, SEMANTIC, build_backbone
from mlesam_ros.model.config import MLESAMConfig
from mlesam_ros.model.decoder import MaskDecoder
from mlesam_ros.model.mlesam import build_mlesam
from mlesam_ros.model.weights import base_sha256, find_base, load_backbone, load_base, save_backbone

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
    model = build_mlesam(MLESAMConfig(backbone="hiera_tiny", label_space=SIX, rank=2)).eval()
    load_base(model, published)
    return model


class TestMetasCheckpoint:
    def test_the_pyramid_is_meta_s(self, model, sam2):
        images = torch.randn(2, 3, 96, 128)
        with torch.no_grad():
            s0, s1, semantic = sam2.forward_image(images)["backbone_fpn"]
            ours = model.decoder.narrow(model.backbone(images))
        assert torch.equal(ours[SEMANTIC], semantic)
        assert torch.equal(ours[HIGH_RES_1], s1)
        assert torch.equal(ours[HIGH_RES_0], s0)

    def test_the_decoder_is_meta_s(self, model, sam2):
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

    def test_mask_tokens_are_dealt_out_to_the_classes(self, model, sam2):
        # 1 to 3 are SAM's multi-mask outputs; 0, its single-mask output, is for clicks.
        expected = sam2.sam_mask_decoder.mask_tokens.weight[[1, 2, 3, 1, 2, 3]]
        assert torch.equal(model.decoder.class_tokens, expected)

    def test_what_is_trained_is_counted_without_meta_s_unused_modules(self, model, sam2):
        trained = sum(p.numel() for n, p in model.named_parameters() if not n.startswith("backbone."))
        decoder = sum(p.numel() for p in model.decoder.parameters())
        theirs = sum(p.numel() for p in sam2.sam_mask_decoder.parameters())
        assert decoder < theirs + 2 * 140_000  # two more hypernetworks than SAM's four
        assert trained < sum(p.numel() for p in sam2.parameters()) - sum(p.numel() for p in model.backbone.parameters())

    def test_another_size_is_refused_with_the_tensors_that_differ(self, published):
        with pytest.raises(
            CheckpointError,
            match=r"is not hiera_nano but hiera_tiny: .* of another shape .*; expected is weights/hiera_nano\.saf",
        ):
            load_backbone(build_backbone("hiera_nano"), published)

    def test_a_file_cut_short_is_refused(self, published, tmp_path):
        cut = tmp_path / "cut.pt"
        cut.write_bytes(published.read_bytes()[:1_000_000])
        with pytest.raises(CheckpointError, match=r"cut\.pt is truncated or not a weights file"):
            load_backbone(build_backbone("hiera_nano"), cut)


@pytest.fixture
def nano():
    return build_backbone("hiera_nano")


class TestOurs:
    def test_comes_back_bit_for_bit(self, nano, tmp_path):
        save_backbone(tmp_path / "nano.safetensors", nano)
        other = build_backbone("hiera_nano")
        assert base_sha256(other) != base_sha256(nano)
        load_backbone(other, tmp_path / "nano.safetensors")
        assert base_sha256(other) == base_sha256(nano)

    def test_no_bit_may_change_unnoticed(self, nano):
        before = base_sha256(nano)
        with torch.no_grad():
            weight = nano.trunk.blocks[3].mlp.layers[0].bias
            weight[0] = torch.nextafter(weight[0], torch.tensor(1e9))
        assert base_sha256(nano) != before

    def test_experts_do_not_change_the_fingerprint(self, nano):
        model = build_mlesam(MLESAMConfig())
        model.backbone.load_state_dict(nano.state_dict())
        assert base_sha256(model.backbone) == base_sha256(nano)

    def test_truncated(self, nano, tmp_path):
        path = tmp_path / "nano.safetensors"
        save_backbone(path, nano)
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(CheckpointError, match="truncated"):
            load_backbone(nano, path)

    def test_unwritable(self, nano, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(CheckpointError, match="cannot be written"):
            save_backbone(tmp_path / "file" / "nano.safetensors", nano)


@pytest.mark.parametrize("content", [b"", b"not weights at all", b"\x80\x02}q\x00."])
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_garbage_is_refused(nano, tmp_path, content, suffix):
    path = tmp_path / f"garbage{suffix}"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="garbage"):
        load_backbone(nano, path)


def test_code_in_a_checkpoint_is_not_run(nano, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path.joinpath("ran").touch, ())

    torch.save({"model": {"image_encoder.x": Trap()}}, tmp_path / "trap.pt")
    with pytest.raises(CheckpointError, match=r"trap\.pt"):
        load_backbone(nano, tmp_path / "trap.pt")
    assert not (tmp_path / "ran").exists()


def test_a_decoder_that_is_not_sams_is_refused(tmp_path):
    model = build_mlesam(MLESAMConfig())
    tensors = {f"image_encoder.{name}": t for name, t in model.backbone.state_dict().items()}
    torch.save({"model": {**tensors, "sam_mask_decoder.iou_token.weight": torch.zeros(1, 96)}}, tmp_path / "odd.pt")
    with pytest.raises(CheckpointError, match=r"odd\.pt has a mask decoder that is not SAM's: \d+ are missing"):
        load_base(model, tmp_path / "odd.pt")


def test_no_such_file(nano):
    with pytest.raises(CheckpointError, match=r"there is no weights file nowhere\.pt"):
        load_backbone(nano, "nowhere.pt")


def test_weights_that_do_not_ship_are_named():
    with pytest.raises(CheckpointError, match=r"sam2\.1_hiera_base_plus\.pt or sam2_hiera_base_plus\.pt"):
        find_base("hiera_base_plus", None)
