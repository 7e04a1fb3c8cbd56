"""A detector in torch with the interface of an engine, the reference of exported files."""

import torch
from typing_extensions import Self

from compress.detector import Detector
from export.artifact.manifest import Manifest
from export.detections import Candidates
from export.errors import ExportError
from export.pictures.images import Images


class TorchEngine:
    """Runs `detector.candidates` in fp32 on `device`."""

    def __init__(
        self,
        detector: Detector,
        manifest: Manifest,
        device: torch.device | None = None,
        threads: int | None = None,
    ) -> None:
        self._detector, self._manifest = detector, manifest
        self._device = device or torch.device("cpu")
        self._threads = threads
        self._was_training, self._was_on = False, self._device
        self._resident: torch.Tensor | None = None

    @property
    def manifest(self) -> Manifest:
        """Input size, classes and NMS settings."""
        return self._manifest

    def candidates(self, images: Images) -> Candidates:
        """Return the boxes for (B, 3, H, W) RGB in 0..1, on the host."""
        with torch.inference_mode():
            boxes, scores, labels = self._detector.candidates(
                torch.from_numpy(images).to(self._device)
            )
        return Candidates(
            boxes.float().cpu().numpy(), scores.float().cpu().numpy(), labels.cpu().numpy()
        )

    @property
    def device(self) -> str:
        """Type of its device: cpu or cuda."""
        return self._device.type

    def upload(self, images: Images) -> None:
        """Copy (B, 3, H, W) to the device, for `enqueue`."""
        self._resident = torch.from_numpy(images).to(self._device)

    def enqueue(self) -> None:
        """Queue one pass over the last upload; its outputs stay on the device."""
        if self._resident is None:
            raise ExportError(f"{self._manifest.model}: upload a batch first")
        with torch.inference_mode():
            self._detector.candidates(self._resident)

    def pass_ms(self) -> float:
        """Run one pass over the last upload; return its time in ms by CUDA events."""
        start, end = (torch.Event(self._device, enable_timing=True) for _ in range(2))
        with torch.cuda.device(self._device):
            start.record()
            self.enqueue()
            end.record()
        end.synchronize()
        return float(start.elapsed_time(end))

    def synchronize(self) -> None:
        """Wait for the queued passes."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)

    def __enter__(self) -> Self:
        """Put the detector into eval mode on the device."""
        self._was_training = self._detector.training
        self._was_on = next(self._detector.parameters()).device
        self._detector.to(self._device).eval()
        if self._threads is not None:
            torch.set_num_threads(self._threads)
        return self

    def __exit__(self, *_: object) -> None:
        """Restore the detector's mode and device."""
        self._detector.to(self._was_on).train(self._was_training)
        self._resident = None
