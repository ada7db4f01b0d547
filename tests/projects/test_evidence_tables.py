"""The page of evidence says what its raw rows say."""

from projects import evidence_tables
from projects.evidence_tables import FOLDER, PAGE, of_known_answer, of_photographs, with_tables


def test_the_page_has_the_tables_of_its_rows():
    assert evidence_tables.main(["--check"]) == 0
    for path in FOLDER.glob("*.csv"):
        assert f"<!-- table {path.stem} -->" in PAGE.read_text()


def test_every_run_is_shown_and_means_are_over_pictures():
    runs = (("short", "0.5", "1"), ("short", "1", "2"), ("long", "0.25", "3"))
    lines = [
        {"row": "a", "stages": s, "near": n, "size": p, "balance": "-0.5", "off": "0", "error": "1"} for s, n, p in runs
    ]
    cells = "0.25; 0.50 / 1.00 | 3.00; 1.00 / 2.00 | -0.50; -0.50 / -0.50 | 0.00; 0.00 / 0.00 | 1.00; 1.00 / 1.00"
    assert of_known_answer(lines).splitlines()[-1] == f"| a | {cells} |"
    values = [("psnr", "0", "20"), ("psnr", "1", "30"), ("ssim", "0", "0.5"), ("ssim", "1", "0.7")]
    values += [("two_sample", "", "0.75"), ("swd", "", "12"), ("spectrum", "", "3"), ("finest", "", "-4")]
    lines = [{"row": "a", "measure": m, "picture": p, "value": v} for m, p, v in values]
    assert (
        of_photographs(lines).splitlines()[-1] == "| a | 25.00 (20.00 to 30.00) | 0.600 | 0.750 | 12.0 | 3.0 | -4.0 |"
    )


def test_a_changed_row_changes_the_page(tmp_path):
    (tmp_path / "known_answer.csv").write_text(
        "stages,seed,row,near,size,balance,off,error\nlong,0,b,0.1,0.2,0.5,0.3,0.4\n"
    )
    page = with_tables("x\n<!-- table known_answer -->\nold\n<!-- end -->\n", tmp_path)
    assert "| b | 0.10; - | 0.20; - | 0.50; - | 0.30; - | 0.40; - |" in page and "old" not in page
