"""The processor of the embedded model: PIL and NumPy only, Hugging Face's call convention, the same tensors.

    processor(text=["<|im_start|>user <|vision_bos|><|IMAGE|><|vision_eos|>..."], images=[image])

returns left-padded tensors that `Qwen2_5OmniThinkerForConditionalGeneration.forward` and `.generate` take as keyword
arguments. Images equal `Qwen2VLImageProcessorPil`, sound equals `WhisperFeatureExtractor` (whose padding to a fixed
length is cut off again); Hugging Face's VIDEO processors need torchvision, so frames are patchified here as the model
expects.
"""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from ..errors import MediaError, PromptError
from ..prompts.media import load_image
from .media import as_frames, as_waveform
from .patches import ImageSettings, patchify, prepare
from .spectrogram import AudioSettings, frame_count, log_mel, soft_tokens

CONFIG_FILE = "preprocessor_config.json"


class OmniProcessor:
    """Turns chat text with placeholders, and the media they stand for, into model inputs.

    Args:
        tokenizer: the checkpoint's tokenizer; it names the placeholder tokens.
        image: sizes of the vision tower's input.
        audio: settings of the log-mel features.

    Attributes:
        leaves_text: text without media is what the tokenizer makes of it, so that it need not come through here.
    """

    leaves_text = True

    def __init__(
        self, tokenizer: PreTrainedTokenizerBase, image: ImageSettings | None = None, audio: AudioSettings | None = None
    ) -> None:
        self.tokenizer = tokenizer
        self.image = image or ImageSettings()
        self.audio = audio or AudioSettings()
        self.image_token, self.video_token, self.audio_token = (
            str(tokenizer.image_token),
            str(tokenizer.video_token),
            str(tokenizer.audio_token),
        )

    def __call__(
        self,
        text: str | Sequence[str],
        images: Any = None,
        videos: Any = None,
        audio: Any = None,
        *,
        return_tensors: str = "pt",
        padding: bool = True,
    ) -> dict[str, torch.Tensor]:
        """Encode one or several prompts.

        Args:
            text: rendered chat prompts. Each `<|IMAGE|>`, `<|VIDEO|>`, `<|AUDIO|>` takes the next of `images`,
                `videos`, `audio`, in the order of the text.
            images: PIL images, (height, width, 3) uint8 arrays or paths.
            videos: lists of such frames, (frames, height, width, 3) arrays, or video files (through PyAV).
            audio: float waveforms at 16 kHz, or wav files of any rate.
            return_tensors, padding: accepted for compatibility; the result is always padded PyTorch tensors.

        Returns:
            input_ids, attention_mask (rows, length); and as needed pixel_values (patches, 384), image_grid_thw (n, 3),
            pixel_values_videos, video_grid_thw, video_second_per_grid (n,), input_features (n, 40, frames),
            feature_attention_mask (n, frames).

        Raises:
            MediaError: a medium is empty, unreadable or too long.
            PromptError: placeholders and media differ in number, or a prompt exceeds the tokenizer's limit.
        """
        del return_tensors, padding
        rows = [text] if isinstance(text, str) else list(text)
        if not rows:
            raise PromptError("encode prompts", "0 prompts", "pass at least one")
        out: dict[str, torch.Tensor] = {}
        lengths: dict[str, list[int]] = {self.image_token: [], self.video_token: [], self.audio_token: []}
        if images is not None and (items := _as_list(images)):
            found, lengths[self.image_token] = self.encode_images(items)
            out |= found
        if videos is not None and (items := _as_list(videos, nested=True)):
            found, lengths[self.video_token] = self.encode_videos(items)
            out |= found
        if audio is not None and (items := _as_list(audio)):
            found, lengths[self.audio_token] = self.encode_audio(items)
            out |= found
        return self._tokens(self._expand(rows, lengths)) | out

    def encode_images(self, images: Sequence[Any]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Patches of images, and how many soft tokens each image becomes.

        Returns:
            pixel_values (patches, 384) float32 and image_grid_thw (n, 3); n numbers of tokens.

        Raises:
            MediaError: an image is empty, unreadable or too narrow.
        """
        patches, grids, lengths = self._patches([[prepare(load_image(image), self.image)] for image in images])
        return {"pixel_values": patches, "image_grid_thw": grids}, lengths

    def encode_videos(self, videos: Sequence[Any]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Patches of videos, and how many soft tokens each video becomes.

        Returns:
            pixel_values_videos (patches, 384) float32, video_grid_thw (n, 3) and video_second_per_grid (n,), in
            seconds; n numbers of tokens.

        Raises:
            MediaError: a video is empty, unreadable, or its frames differ in size.
        """
        clips = [as_frames(video) for video in videos]
        patches, grids, lengths = self._patches([[prepare(frame, self.image) for frame in clip] for clip in clips])
        seconds = torch.tensor([self.image.temporal_patch_size * clip.spacing for clip in clips])
        found = {"pixel_values_videos": patches, "video_grid_thw": grids, "video_second_per_grid": seconds}
        return found, lengths

    def encode_audio(self, clips: Sequence[Any]) -> tuple[dict[str, torch.Tensor], list[int]]:
        """Log-mel features of sounds, and how many soft tokens each sound becomes.

        Returns:
            input_features (n, 40, frames) float32, at the floor behind the end of a clip, and feature_attention_mask
            (n, frames); n numbers of tokens.

        Raises:
            MediaError: a sound is empty, unreadable or too long.
        """
        waves = [as_waveform(clip, self.audio.max_seconds) for clip in clips]
        counts = [frame_count(len(wave), self.audio) for wave in waves]
        values = np.zeros((len(waves), self.audio.feature_size, max(counts)), dtype=np.float32)
        mask = np.zeros((len(waves), max(counts)), dtype=np.int64)
        for row, (wave, count) in enumerate(zip(waves, counts, strict=True)):
            feature = log_mel(wave, self.audio)
            values[row] = feature.max() - 2.0
            feature = feature[:, : max(counts)]
            values[row, :, : feature.shape[1]] = feature
            mask[row, :count] = 1
        found = {"input_features": torch.from_numpy(values), "feature_attention_mask": torch.from_numpy(mask)}
        return found, [soft_tokens(count) for count in counts]

    def _patches(self, media: list[list[np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
        """Media as prepared frames -> their patches one after another, their grids (n, 3), their numbers of tokens."""
        patches, grids = zip(*(patchify(frames, self.image) for frames in media), strict=True)
        lengths = [math.prod(grid) // self.image.merge_size**2 for grid in grids]
        return torch.from_numpy(np.concatenate(patches)), torch.tensor(grids, dtype=torch.long), lengths

    def _expand(self, rows: list[str], lengths: dict[str, list[int]]) -> list[str]:
        """Repeat each placeholder as often as its medium has soft tokens."""
        for token, found in lengths.items():
            asked = sum(row.count(token) for row in rows)
            if asked != len(found):
                raise PromptError(
                    f"encode {len(rows)} prompts with {asked} placeholders {token}",
                    f"{len(found)} media of that kind",
                    "pass one medium per placeholder, in the order of the text",
                )
        queues = {token: iter(found) for token, found in lengths.items()}
        out = []
        for row in rows:
            for token, queue in queues.items():
                head, *tails = row.split(token)
                row = head + "".join(token * next(queue) + tail for tail in tails)
            out.append(row)
        return out

    def _tokens(self, rows: list[str]) -> dict[str, torch.Tensor]:
        """Tokenise and pad on the left."""
        ids = self.tokenizer(rows, add_special_tokens=False)["input_ids"]
        longest, limit = max(len(i) for i in ids), int(self.tokenizer.model_max_length)
        if longest > limit or min(len(i) for i in ids) == 0:
            raise PromptError(
                "encode prompts",
                f"{longest} tokens" if longest else "an empty prompt",
                f"keep them between 1 and {limit} tokens",
            )
        pad = int(self.tokenizer.pad_token_id)
        input_ids = torch.tensor([[pad] * (longest - len(tokens)) + tokens for tokens in ids])
        mask = torch.tensor([[0] * (longest - len(tokens)) + [1] * len(tokens) for tokens in ids])
        return {"input_ids": input_ids, "attention_mask": mask}

    def apply_chat_template(self, conversation: Any, *, add_generation_prompt: bool = True, **kwargs: Any) -> Any:
        """Render a conversation (or several) with the tokenizer's chat template; text unless `tokenize=True`."""
        return self.tokenizer.apply_chat_template(
            conversation, add_generation_prompt=add_generation_prompt, **({"tokenize": False} | kwargs)
        )

    def decode(self, ids: Any, *, skip_special_tokens: bool = True) -> str:
        """The text of one row of token ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    def batch_decode(self, ids: Any, *, skip_special_tokens: bool = True) -> list[str]:
        """The texts of several rows of token ids."""
        return [self.decode(row, skip_special_tokens=skip_special_tokens) for row in ids]

    def save_pretrained(self, folder: str | Path) -> None:
        """Write `preprocessor_config.json`, readable by this class and by Hugging Face's feature extractor classes."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        config = self.image.as_dict() | self.audio.as_dict()
        # A server that knows nothing of this package must still find a processor it can build without torchvision:
        # media travel as ready tensors, so the sound half alone is enough.
        config |= {"processor_class": "Qwen2AudioProcessor", "feature_extractor_type": "WhisperFeatureExtractor"}
        (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")

    @classmethod
    def from_pretrained(cls, folder: str | Path, tokenizer: PreTrainedTokenizerBase | None = None) -> "OmniProcessor":
        """Read the processor of a checkpoint folder.

        Raises:
            MediaError: the folder holds no readable `preprocessor_config.json` of this processor.
        """
        path = Path(folder) / CONFIG_FILE
        try:
            config = json.loads(path.read_text())
            image, audio = ImageSettings.from_dict(config), AudioSettings.from_dict(config)
        except (OSError, ValueError, KeyError) as problem:
            raise MediaError(
                f"load the processor of {folder}",
                f"no usable {CONFIG_FILE} ({problem})",
                "pass a checkpoint folder of this package",
            ) from problem
        return cls(tokenizer or AutoTokenizer.from_pretrained(folder), image, audio)


def _as_list(media: Any, *, nested: bool = False) -> list[Any]:
    """One medium or several -> a list of media; a video may itself be a list of frames (`nested`)."""
    if isinstance(media, (list, tuple)):
        if nested and media and not isinstance(media[0], (list, tuple, str, Path)) and np.ndim(media[0]) != 4:
            return [media]
        if not nested and media and isinstance(media[0], (int, float)):
            return [media]
        return list(media)
    return [media]
