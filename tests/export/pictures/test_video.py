import json
import sys

import numpy as np
import pytest

from export.pictures.video import VideoWriter, open_video
from export.predict import main


def test_without_opencv_a_video_is_refused_and_pictures_are_not(
    static_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setitem(sys.modules, "cv2", None)
    (tmp_path / "clip.mp4").write_bytes(b"video")
    code = main([str(static_model), str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "seen")])
    assert code == 4
    assert "pip install 'slimdet[video]'" in capsys.readouterr().err


def test_a_video_is_drawn_frame_by_frame(static_model, tmp_path, capsys):
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'slimdet[video]'")
    clip = tmp_path / "clip.mp4"
    frames = np.random.default_rng(0).integers(0, 256, (6, 48, 64, 3), dtype=np.uint8)
    with VideoWriter(clip, 10.0) as writer:
        for frame in frames:
            writer.add(frame)
    out = tmp_path / "seen"
    assert (
        main([str(static_model), str(clip), "--out", str(out), "--threshold", "0.1", "--json"]) == 0
    )
    record = json.loads(capsys.readouterr().out)["images"][0]
    assert len(record["frames"]) == 6
    assert (record["width"], record["height"], record["frames_per_second"]) == (64, 48, 10.0)
    with open_video(out / "clip.mp4") as video:
        assert len(list(video.frames())) == 6
    assert not list(out.glob("*.partial*"))


def test_what_is_no_video_is_named(static_model, tmp_path, capsys):
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install 'slimdet[video]'")
    (tmp_path / "clip.mp4").write_bytes(b"no video")
    arguments = [str(static_model), str(tmp_path / "clip.mp4"), "--out", str(tmp_path / "seen")]
    assert main(arguments) == 3
    assert "not a video that OpenCV can read" in capsys.readouterr().err
