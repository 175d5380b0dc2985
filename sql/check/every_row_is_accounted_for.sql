-- Rows of raw files that got lost between reading and storing: read = accepted + quarantined + repeated.
select
    source_file,
    rows_read,
    rows_accepted,
    rows_quarantined,
    rows_repeated
from validated.ingested_files
where rows_read != rows_accepted + rows_quarantined + rows_repeated
