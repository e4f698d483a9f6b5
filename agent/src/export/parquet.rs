//! Slices as Parquet: the columns of the CSV; what they amount to as DECIMAL(38, 0), which is exact.

use std::io::Write;

use parquet::basic::{Repetition, Type as Physical};
use parquet::data_type::{
    BoolType, ByteArray, ByteArrayType, DataType, FixedLenByteArray, FixedLenByteArrayType, Int64Type,
};
use parquet::errors::ParquetError;
use parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::parser::parse_message_type;

use super::{Clipped, ExportError, Sheet};

const SCHEMA: &str = "message slice {
    required byte_array org (UTF8);
    required byte_array sandbox (UTF8);
    required int64 generation;
    required int64 seq;
    required byte_array state (UTF8);
    optional byte_array reason (UTF8);
    required int64 start_unix_ns;
    required int64 end_unix_ns;
    required int64 duration_ns;
    required int64 memory_base_bytes;
    required int64 memory_plugged_bytes;
    required int64 memory_requested_bytes;
    required int64 vcpus_milli;
    required int64 disk_bytes;
    required byte_array opened_by (UTF8);
    optional byte_array closed_by (UTF8);
    optional byte_array command_id (UTF8);
    optional byte_array opened_by_command_id (UTF8);
    required int64 uncertainty_ns (UINT_64);
    required boolean final;
    required fixed_len_byte_array(16) memory_byte_ns (DECIMAL(38,0));
    required fixed_len_byte_array(16) vcpu_milli_ns (DECIMAL(38,0));
    required fixed_len_byte_array(16) disk_byte_ns (DECIMAL(38,0));
    required fixed_len_byte_array(16) disk_overage_byte_ns (DECIMAL(38,0));
}";

/// Rows are written in groups of so many: what is in memory.
const ROWS_AT_ONCE: usize = 16_384;

/// The values of one column that are not written yet.
enum Column {
    Text(Vec<ByteArray>),
    /// With which rows have one.
    TextOrNull(Vec<ByteArray>, Vec<i16>),
    Number(Vec<i64>),
    Flag(Vec<bool>),
    Exact(Vec<FixedLenByteArray>),
}

pub(super) struct Parquet<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Column>,
    rows: usize,
}

fn failed(error: ParquetError) -> ExportError {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(error) => ExportError::Unwritable(*error),
            Err(source) => ExportError::Unwritable(std::io::Error::other(source)),
        },
        error => ExportError::Unwritable(std::io::Error::other(error)),
    }
}

impl<W: Write + Send> Parquet<W> {
    pub(super) fn begin(out: W) -> Result<Self, ExportError> {
        let schema = std::sync::Arc::new(parse_message_type(SCHEMA).map_err(failed)?);
        let column = |field: &parquet::schema::types::TypePtr| {
            let is_optional = field.get_basic_info().repetition() == Repetition::OPTIONAL;
            match field.get_physical_type() {
                Physical::BYTE_ARRAY if is_optional => Column::TextOrNull(Vec::new(), Vec::new()),
                Physical::BYTE_ARRAY => Column::Text(Vec::new()),
                Physical::BOOLEAN => Column::Flag(Vec::new()),
                Physical::FIXED_LEN_BYTE_ARRAY => Column::Exact(Vec::new()),
                _ => Column::Number(Vec::new()),
            }
        };
        let columns = schema.get_fields().iter().map(column).collect();
        let file = SerializedFileWriter::new(out, schema, std::sync::Arc::default()).map_err(failed)?;
        Ok(Self { file, columns, rows: 0 })
    }

    fn write_rows(&mut self) -> Result<(), ExportError> {
        let mut group = self.file.next_row_group().map_err(failed)?;
        for column in &mut self.columns {
            column.write(&mut group).map_err(failed)?;
        }
        group.close().map_err(failed)?;
        self.rows = 0;
        Ok(())
    }
}

impl<W: Write + Send> Sheet for Parquet<W> {
    fn slice(&mut self, slice: &Clipped<'_>) -> Result<(), ExportError> {
        let (row, quantities) = (slice.row, slice.quantities);
        let (text, number) = (Cell::Text, |number: u64| Cell::Number(number.cast_signed()));
        let cells = [
            text(Some(&row.org)),
            text(Some(&row.sandbox)),
            Cell::Number(row.generation),
            number(row.seq),
            text(Some(&row.state)),
            text(row.reason.as_deref()),
            Cell::Number(slice.place.start),
            Cell::Number(slice.place.end),
            number(slice.duration_ns),
            number(row.memory_base_bytes),
            number(row.memory_plugged_bytes),
            number(row.memory_requested_bytes),
            Cell::Number(row.vcpus_milli.into()),
            number(row.disk_bytes),
            text(Some(&row.opened_by)),
            text(row.closed_by.as_deref()),
            text(row.command_id.as_deref()),
            text(row.opened_by_command_id.as_deref()),
            number(row.uncertainty_ns),
            Cell::Flag(row.is_final),
            Cell::Exact(quantities.memory_byte_ns),
            Cell::Exact(quantities.vcpu_milli_ns),
            Cell::Exact(quantities.disk_byte_ns),
            Cell::Exact(quantities.disk_overage_byte_ns),
        ];
        self.columns.iter_mut().zip(cells).for_each(|(column, cell)| column.push(cell));
        self.rows += 1;
        if self.rows < ROWS_AT_ONCE { Ok(()) } else { self.write_rows() }
    }

    fn end(mut self: Box<Self>) -> Result<(), ExportError> {
        if self.rows > 0 {
            self.write_rows()?;
        }
        self.file.close().map_err(failed)?;
        Ok(())
    }
}

/// A value of a row.
enum Cell<'a> {
    Text(Option<&'a str>),
    Number(i64),
    Flag(bool),
    Exact(i128),
}

impl Column {
    fn push(&mut self, cell: Cell<'_>) {
        match (self, cell) {
            (Self::Text(values), Cell::Text(text)) => values.push(text.unwrap_or_default().into()),
            (Self::TextOrNull(values, are_there), Cell::Text(text)) => {
                are_there.push(i16::from(text.is_some()));
                values.extend(text.map(ByteArray::from));
            }
            (Self::Number(values), Cell::Number(number)) => values.push(number),
            (Self::Flag(values), Cell::Flag(flag)) => values.push(flag),
            (Self::Exact(values), Cell::Exact(number)) => {
                values.push(FixedLenByteArray::from(number.to_be_bytes().to_vec()));
            }
            // The cells of a row are in the order of the schema.
            _ => debug_assert!(false, "a cell of another type than its column"),
        }
    }

    fn write<W: Write + Send>(
        &mut self,
        group: &mut SerializedRowGroupWriter<'_, W>,
    ) -> Result<(), ParquetError> {
        match self {
            Self::Text(values) => write::<ByteArrayType, W>(group, values, None),
            Self::TextOrNull(values, are_there) => {
                write::<ByteArrayType, W>(group, values, Some(are_there.as_slice()))?;
                are_there.clear();
                Ok(())
            }
            Self::Number(values) => write::<Int64Type, W>(group, values, None),
            Self::Flag(values) => write::<BoolType, W>(group, values, None),
            Self::Exact(values) => write::<FixedLenByteArrayType, W>(group, values, None),
        }
    }
}

/// Writes the next column of a group, and forgets its values.
fn write<T: DataType, W: Write + Send>(
    group: &mut SerializedRowGroupWriter<'_, W>,
    values: &mut Vec<T::T>,
    are_there: Option<&[i16]>,
) -> Result<(), ParquetError> {
    if let Some(mut column) = group.next_column()? {
        column.typed::<T>().write_batch(values, are_there, None)?;
        column.close()?;
    }
    values.clear();
    Ok(())
}
