"""The form of an invoice's file: what is read, and what is said about a file that is not in it."""

from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spotinference_pipeline.errors import InvoiceError
from spotinference_pipeline.invoice_lines import CATEGORIES, InvoiceLine, parse_lines

MONTH = date(2026, 11, 1), date(2026, 12, 1)
HEADER = "line,description,resource_type,resource_id,category,quantity,unit,usd"


def test_a_line_bills_a_resource_a_category_or_is_tax() -> None:
    content = f"{HEADER}\n1,H100 machine,vm,700123,,720,h,1234.56\n2,disks,,,volume,,,-3.5\n\n3,VAT,,,tax,,,0.25\n"
    assert parse_lines(content.encode(), MONTH) == [
        InvoiceLine(1, "H100 machine", "vm", 700123, None, Decimal(720), "h", Decimal("1234.56"), MONTH),
        InvoiceLine(2, "disks", None, None, "volume", None, None, Decimal("-3.5"), MONTH),
        InvoiceLine(3, "VAT", None, None, "tax", None, None, Decimal("0.25"), MONTH),
    ]


def test_a_file_as_spreadsheets_save_it_reads_the_same() -> None:
    plain = parse_lines(b"line,description,category,usd\n1,a,vm,1\n", MONTH)
    saved = parse_lines(b'\xef\xbb\xbfline,description,category,usd\r\n1,"a","vm", 1 \r\n,,,\r\n', MONTH)
    assert saved == plain


def test_lines_may_have_periods_of_their_own() -> None:
    content = b"line,description,category,usd,period_start,period_end\n1,a,vm,1,2026-11-01,2026-11-16\n"
    assert parse_lines(content, None)[0].period == (date(2026, 11, 1), date(2026, 11, 16))


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("", "line 1: expected the names of the columns, found an empty file"),
        ("line,description,usd\n", "line 1: expected a column category, or resource_type and resource_id, found none"),
        ("line,category,usd\n", "line 1: expected a column description, found none"),
        ("line,description,category,price\n", "found 'price'"),
        ("line;description;category;usd\n", "found 'line;description;category;usd'"),
        ("line,line,description,category,usd\n", "line 1: expected each column once, found 'line' twice"),
        ("line,description,category,usd,period_start\n", "found --period and the column period_start"),
        ("line,description,category,usd\n", "line 2: expected a line of the invoice, found the end of the file"),
        ("line,description,category,usd\n1,a,vm\n", "line 2: expected 4 columns as in the first line, found 3"),
        ("line,description,category,usd\n1,,vm,1\n", "line 2, column description: expected a value, found ''"),
        ("line,description,category,usd\n0,a,vm,1\n", "line 2, column line: expected a whole number from 1, found '0'"),
        ("line,description,category,usd\n1,a,vm,\n", "line 2, column usd: expected a value, found ''"),
        ("line,description,category,usd\n\n1,a,vm,$5\n", "line 3, column usd: expected a decimal such as 1234.56"),
        ("line,description,category,usd\n1,a,vm,1e3\n", "found '1e3'"),
        ("line,description,category,usd\n1,a,vm,NaN\n", "found 'NaN'"),
        ('line,description,category,usd\n1,a,vm,"1,234.56"\n', "found '1,234.56'"),
        ("line,description,category,usd\n1,a,vm,1000000001\n", "column usd: expected a decimal"),
        ("line,description,category,usd\n1,a,gpu,1\n", f"expected one of {', '.join(CATEGORIES)}, found 'gpu'"),
        ("line,description,category,usd\n1,a,,1\n", "expected a category, or resource_type and resource_id, found ''"),
        ("line,description,category,usd\n1,a,vm,1\n1,b,vm,2\n", "line 3, column line: expected a number of its own, line 2"),
        ("line,description,category,usd\n1,a,vm,x\n2,b,vm,y\n", "line 2, column usd: expected a decimal such as 1234.56, "
         "found 'x' (1 more faults); correct the file and load it again, nothing was loaded"),
        ('line,description,category,usd\n1,"a"b,vm,1\n', "line 2: expected comma-separated values"),
        ("line,description,category,usd\n1,a\x1b[2J,vm,1\n", "expected printable text of at most 300 characters"),
        (f"{HEADER}\n1,a,vm,7,vm,,,1\n", "line 2, column category: expected nothing beside a resource, found 'vm'"),
        (f"{HEADER}\n1,a,vm,seven,,,,1\n", "column resource_id: expected Hyperstack's number of the resource, found 'seven'"),
        (f"{HEADER}\n1,a,,7,,,,1\n", "column resource_type: expected a type of resource such as vm or volume, found ''"),
        (f"{HEADER}\n1,a,,,vm,5,,1\n", "line 2, column unit: expected the unit of the quantity, found ''"),
        ("line,description,category,usd\n" + "1" * 9_000_000, "file: expected at most 8388608 bytes"),
    ],
)  # fmt: skip
def test_a_fault_is_told_by_its_line_and_column(content: str, said: str) -> None:
    with pytest.raises(InvoiceError) as caught:
        parse_lines(content.encode(), MONTH)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("start", "end", "said"),
    [
        (
            "2026-11-16",
            "2026-11-16",
            "column period_end: expected the first day after the period, later than 2026-11-16",
        ),
        ("11/01/2026", "2026-12-01", "column period_start: expected a UTC day such as 2026-11-01, found '11/01/2026'"),
        ("20261101", "2026-12-01", "column period_start: expected a UTC day"),
        ("2026-W45-7", "2026-12-01", "column period_start: expected a UTC day such as 2026-11-01, found '2026-W45-7'"),
        ("2026-11-01", "2026-W49-2", "column period_end: expected a UTC day such as 2026-11-01, found '2026-W49-2'"),
        ("0026-11-01", "2026-12-01", "column period_start: expected a UTC day"),
    ],
)
def test_a_period_is_two_days_in_order(start: str, end: str, said: str) -> None:
    content = f"line,description,category,usd,period_start,period_end\n1,a,vm,1,{start},{end}\n"
    with pytest.raises(InvoiceError, match="line 2, ") as caught:
        parse_lines(content.encode(), None)
    assert said in str(caught.value)


def test_a_file_without_any_period_says_how_to_tell_one() -> None:
    with pytest.raises(InvoiceError, match="load it with --period YYYY-MM"):
        parse_lines(b"line,description,category,usd\n1,a,vm,1\n", None)


def test_other_bytes_than_utf8_are_told_by_their_line() -> None:
    with pytest.raises(InvoiceError, match="line 2: expected UTF-8"):
        parse_lines(b"line,description,category,usd\n1,caf\xe9,vm,1\n", MONTH)


@given(st.binary(max_size=200) | st.text(alphabet='1a,"\n\r;.-\x00é', max_size=80).map(str.encode))
def test_any_bytes_are_lines_or_a_fault_and_never_a_crash(tail: bytes) -> None:
    try:
        lines = parse_lines(b"line,description,category,usd\n" + tail, MONTH)
    except InvoiceError as error:
        said, lines = str(error), []
    else:
        said = ""
    assert said.isprintable()
    assert bool(said) != bool(lines)
    assert all(line.usd.is_finite() for line in lines)
