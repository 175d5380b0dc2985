"""From a loaded invoice's raw file to rows of validated.invoice_lines. What the file says is `invoice_lines`'."""

from spotinference_pipeline.batch import Batch
from spotinference_pipeline.errors import InvoiceError, RawFileError
from spotinference_pipeline.invoice_lines import parse_lines
from spotinference_pipeline.raw import BadLine
from spotinference_pipeline.raw_invoices import read_invoices

TABLE = "validated.invoice_lines"


def add_invoice(batch: Batch, content: bytes, file: str) -> None:
    """Add an invoice's lines to the batch, all of them or none."""
    if not content:
        batch.flag(file, 1, "file", TABLE, "empty file: expected one line")
    for number, invoice in read_invoices(content):
        if isinstance(invoice, BadLine):
            batch.refuse(file, number, "line", TABLE, invoice.reason, invoice.content)
            continue
        try:
            lines = parse_lines(invoice.body_bytes(), invoice.period)
        except (InvoiceError, RawFileError) as error:
            batch.refuse(file, number, "body", TABLE, str(error), invoice.body.encode())
            continue
        for line in lines:
            row = (
                invoice.number,
                invoice.revision,
                invoice.loaded_at,
                line.line,
                line.description,
                line.resource_type,
                line.resource_id,
                line.category,
                line.quantity,
                line.unit,
                line.usd,
                *line.period,
            )
            batch.add(TABLE, (*row, file, number))
