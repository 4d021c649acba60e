//! The kernel's own description of its trace records: a `format` file of tracefs
//! (Documentation/trace/events.rst), as text.

use std::collections::BTreeMap;

use hmm_protocol::trace::INSTANCE;

/// Where a value lies in a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Field {
    offset: usize,
    size: usize,
    signed: bool,
}

impl Field {
    /// Its value, if it is one of up to eight bytes and the record has it.
    pub(super) fn value(&self, record: &[u8]) -> Option<u64> {
        let Field { offset, size, signed } = *self;
        let bytes = record.get(offset..offset.checked_add(size)?)?;
        if bytes.is_empty() || size > 8 {
            return None;
        }
        let negative = signed && bytes.last().is_some_and(|last| last & 0x80 != 0);
        let mut whole = [if negative { 0xff } else { 0 }; 8];
        whole[..size].copy_from_slice(bytes);
        Some(u64::from_le_bytes(whole))
    }
}

/// One kind of record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Format {
    /// The name of its event.
    pub(super) name: String,
    id: u16,
    fields: BTreeMap<String, Field>,
}

impl Format {
    /// Reads a `format` file.
    ///
    /// # Errors
    /// What cannot be understood, as a phrase.
    fn parse(text: &str) -> Result<Format, String> {
        let mut name = None;
        let mut id = None;
        let mut fields = BTreeMap::new();
        for line in text.lines() {
            if let Some(word) = line.strip_prefix("name: ") {
                name = Some(word.trim().to_owned());
            } else if let Some(number) = line.strip_prefix("ID: ") {
                id = number.trim().parse().ok();
            } else if let Some(declaration) = line.trim().strip_prefix("field:") {
                let (field, place) =
                    field(declaration).ok_or_else(|| format!("the field {line:?}"))?;
                fields.insert(field, place);
            }
        }
        match (name, id) {
            (Some(name), Some(id)) => Ok(Format { name, id, fields }),
            _ => Err("a format without name or ID".into()),
        }
    }

    /// The number that stands in each record: its first field (`struct
    /// trace_entry`, include/linux/trace_events.h).
    pub(super) fn id(&self) -> u16 {
        self.id
    }

    /// Where a field lies.
    pub(super) fn field(&self, name: &str) -> Option<Field> {
        self.fields.get(name).copied()
    }

    /// Where the last field ends: how long a record is whose fields all have a
    /// size.
    pub(super) fn length(&self) -> usize {
        let end = |field: &Field| field.offset.saturating_add(field.size);
        self.fields.values().map(end).max().unwrap_or(0)
    }

    /// What stands from a field on to the end of the record: up to the first NUL,
    /// and how much there is behind that.
    pub(super) fn text<'r>(&self, field: &str, record: &'r [u8]) -> Option<(&'r [u8], usize)> {
        let rest = record.get(self.fields.get(field)?.offset..)?;
        let text = rest.split(|byte| *byte == 0).next().unwrap_or_default();
        Some((text, rest.len() - text.len()))
    }
}

/// `unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;`
fn field(declaration: &str) -> Option<(String, Field)> {
    let mut parts = declaration.split(';').map(str::trim);
    let declared = parts.next()?.split('[').next()?;
    let name = declared.rsplit([' ', '*']).next()?;
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse().ok();
    let (offset, size) = (number("offset:")?, number("size:")?);
    let signed = number("signed:")? == 1;
    Some((name.to_owned(), Field { offset, size, signed }))
}

/// All kinds of records of a guest, by the number that stands in each.
#[derive(Debug, Clone, Default)]
pub struct Formats(BTreeMap<u16, Format>);

impl Formats {
    /// Reads the `format` files that the agent has sent.
    ///
    /// # Errors
    /// The first that cannot be understood.
    pub fn parse<'a>(texts: impl IntoIterator<Item = (&'a str, &'a str)>) -> Result<Self, String> {
        let mut formats = BTreeMap::new();
        for (name, text) in texts {
            let format = Format::parse(text).map_err(|why| format!("{INSTANCE}/{name}: {why}"))?;
            formats.insert(format.id, format);
        }
        Ok(Formats(formats))
    }

    /// All of them.
    pub(super) fn all(&self) -> impl Iterator<Item = &Format> {
        self.0.values()
    }

    /// Whether records of this name come with this field.
    pub(super) fn can_say(&self, name: &str, field: &str) -> bool {
        self.all().any(|format| format.name == name && format.field(field).is_some())
    }

    /// Whether records of this name can come.
    pub(super) fn has(&self, name: &str) -> bool {
        self.all().any(|format| format.name == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "name: insert_return\nID: 1601\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\
        \tfield:int common_pid;\toffset:4;\tsize:4;\tsigned:1;\n\n\
        \tfield:unsigned long __probe_func;\toffset:8;\tsize:8;\tsigned:0;\n\
        \tfield:s32 ret;\toffset:16;\tsize:4;\tsigned:1;\n\
        \tfield:char buf[];\toffset:20;\tsize:0;\tsigned:0;\n\nprint fmt: \"x\"\n";

    #[test]
    fn values_are_where_the_kernel_says() {
        let format = Format::parse(TEXT).expect("well formed");
        let mut record = vec![0; 20];
        record[..2].copy_from_slice(&1601u16.to_le_bytes());
        record[4] = 9;
        record[16..20].copy_from_slice(&(-11i32).to_le_bytes());
        record.extend(b"words\0more");
        let value = |field: &str, record: &[u8]| format.field(field)?.value(record);
        assert_eq!(value("common_pid", &record), Some(9));
        assert_eq!(value("ret", &record).map(u64::cast_signed), Some(-11));
        assert_eq!(format.text("buf", &record), Some((&b"words"[..], 5)));
        assert_eq!(value("ret", &record[..18]), None);
        assert_eq!(value("buf", &record), None);
        assert_eq!((format.id(), format.length()), (1601, 20));
        let formats = Formats::parse([("insert_return", TEXT)]).expect("well formed");
        assert_eq!(formats.all().collect::<Vec<_>>(), [&format]);
        assert!(formats.has("insert_return") && !formats.has("insert"));
    }

    #[test]
    fn nonsense_is_an_error() {
        for text in ["", "name: x\n", "name: x\nID: 1\n\tfield:int a;\toffset:x;\n"] {
            assert!(Format::parse(text).is_err(), "{text:?}");
        }
    }
}
