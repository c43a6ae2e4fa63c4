"""Curves of a run, from its log."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from dmcnn_jax.cli import plots as plots_command
from dmcnn_jax.training import curves, plots

RECORDS = [
    {"step": 10, "loss": 3e-3, "learning_rate": 1e-3, "psnr": 28.5, "jpeg_psnr": 28.0},
    {"step": 20, "loss": 2e-3, "learning_rate": 5e-4, "psnr": 29.0, "jpeg_psnr": 28.0},
    {"step": 20, "validation": {"loss": 2e-3, "psnr": 30.0, "gain": 0.75}, "event": ""},
]


def write_log(workdir):
    lines = [json.dumps(record) + "\n" for record in RECORDS]
    (workdir / "log.jsonl").write_text("".join(lines) + '{"step": 30, "lo')


def test_a_log_that_is_being_written(tmp_path):
    assert plots.read_log(tmp_path) == []
    write_log(tmp_path)
    assert plots.read_log(tmp_path) == RECORDS


def test_what_is_drawn(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: extra 'test'")
    write_log(tmp_path)
    loss, gain, end, rate = plots.draw(tmp_path).axes
    assert loss.lines[0].get_xydata().tolist() == [[10, 3e-3], [20, 2e-3]]
    assert rate.lines[0].get_xydata().tolist() == [[10, 1e-3], [20, 5e-4]]
    training, validation = gain.lines
    assert training.get_xydata().tolist() == [[10, 0.5], [20, 1.0]]
    assert validation.get_xydata().tolist() == [[20, 0.75]]
    assert {text.get_text() for text in gain.texts} == {"training", "validation"}
    assert [text.get_text() for text in end.texts] == ["0.750"]


def test_outliers_squash_neither_loss_nor_gain(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: extra 'test'")
    with (tmp_path / "log.jsonl").open("w") as file:
        for step in range(1, 201):
            loss, gain = (1.0, -9.0) if step == 1 else (2e-3, 1.0 + step / 1e4)
            record = {"step": step, "loss": loss, "learning_rate": 1e-3}
            record |= {"psnr": 28 + gain, "jpeg_psnr": 28}
            if step % 20 == 0:
                record["validation"] = {"gain": gain}
            file.write(json.dumps(record) + "\n")
    loss, gain, end, _ = plots.draw(tmp_path).axes
    assert loss.get_ylim()[1] < 0.01
    assert 0.95 < gain.get_ylim()[0] < 1.01
    # The last two thirds, to the thousandth.
    assert [x for x, _ in end.lines[0].get_xydata()] == list(range(80, 201, 20))
    assert 1.0 < end.get_ylim()[0] < 1.008 and 1.02 < end.get_ylim()[1] < 1.03


def test_smoothing_is_a_moving_average():
    values = np.random.default_rng(0).normal(size=100)
    smoothed = curves.smooth(values)
    assert smoothed[50] == pytest.approx(values[45:56].mean())
    assert smoothed[0] == pytest.approx(values[:6].mean())
    assert smoothed[-1] == pytest.approx(values[-6:].mean())
    assert curves.smooth([]).size == 0


def test_the_last_drawing_has_it_all(tmp_path, monkeypatch):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: extra 'test'")
    display = pytest.importorskip(
        "IPython.display", reason="IPython is not installed: extra 'test'"
    )
    shown = []

    class Handle:
        def update(self, picture):
            shown.append(picture.data)

    def show(picture, display_id):
        shown.append(picture.data)
        return Handle()

    monkeypatch.setattr(display, "display", show)
    with pytest.raises(ValueError, match="stops"), plots.live_curves(tmp_path, seconds=60):
        write_log(tmp_path)
        raise ValueError("training stops")
    first, last = shown
    assert first[:4] == last[:4] == b"\x89PNG"
    assert first != last


def test_the_command_writes_a_table_and_a_plot(tmp_path, capsys):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: extra 'test'")
    write_log(tmp_path)
    files = [str(tmp_path / name) for name in ("a.csv", "a.png")]
    assert plots_command.main([str(tmp_path), "-o", *files]) == 0
    assert capsys.readouterr().out == f"written: {files[0]}, {files[1]}\n"
    with (tmp_path / "a.csv").open() as file:
        rows = list(csv.DictReader(file))
    logged = [r for r in RECORDS if "loss" in r or "validation" in r]
    assert [int(row["step"]) for row in rows] == [record["step"] for record in logged]
    for row, record in zip(rows, logged, strict=True):
        gain = record.get("validation", {}).get("gain")
        assert row["validation_gain"] == ("" if gain is None else f"{gain:.6g}")
        assert row["loss"] == (f"{record['loss']:.6g}" if "loss" in record else "")
    with Image.open(tmp_path / "a.png") as image:
        assert min(image.size) > 200
    assert plots_command.main([str(tmp_path / "nowhere"), "-o", "a.csv"]) == 1
    assert "there is no log.jsonl in" in capsys.readouterr().err
    assert plots_command.main([str(tmp_path), "-o", str(tmp_path / "a.xyz")]) == 1
    assert "supported" in capsys.readouterr().err


def test_runs_that_continue_each_other_are_drawn_in_one_plot(tmp_path):
    pytest.importorskip("matplotlib", reason="Matplotlib is not installed: extra 'test'")
    write_log(tmp_path)
    plots.write_csv(tmp_path, tmp_path / "table.csv")
    loss, gain, _, rate = plots.draw(tmp_path, tmp_path / "table.csv").axes
    first, _, second, *_ = loss.lines
    assert first.get_xydata().tolist() == [[10, 3e-3], [20, 2e-3]]
    np.testing.assert_allclose(second.get_xydata() - first.get_xydata(), [[20, 0], [20, 0]])
    assert [line.get_xydata().tolist() for line in rate.lines][1] == [[30, 1e-3], [40, 5e-4]]
    names = [text.get_text() for text in gain.texts]
    assert names[-2:] == [f"{tmp_path.name} 0.750", "table 0.750"]


def test_another_table_is_refused(tmp_path, capsys):
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    assert plots_command.main([str(tmp_path / "other.csv"), "-o", str(tmp_path / "x.png")]) == 1
    error = capsys.readouterr().err
    assert "other.csv' has no columns step, loss" in error and error.count("\n") == 1
    assert not (tmp_path / "x.png").exists()


def test_a_table_is_of_one_run(tmp_path, capsys):
    write_log(tmp_path)
    arguments = [str(tmp_path), str(tmp_path), "-o", str(tmp_path / "a.csv")]
    assert plots_command.main(arguments) == 2
    assert "expected one RUN" in capsys.readouterr().err and not (tmp_path / "a.csv").exists()
