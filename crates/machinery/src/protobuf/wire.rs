//! The wire format: numbered fields of four kinds.

/// The value of a field on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wire<'a> {
    /// An integer or boolean.
    Varint(u64),
    /// Eight bytes, little-endian.
    Fixed64(u64),
    /// Text, bytes, a message or packed numbers.
    Bytes(&'a [u8]),
    /// Four bytes, little-endian.
    Fixed32(u32),
}

impl Wire<'_> {
    /// True if the field says nothing: zero or empty.
    pub fn is_zero(&self) -> bool {
        match self {
            Self::Varint(n) | Self::Fixed64(n) => *n == 0,
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::Fixed32(n) => *n == 0,
        }
    }
}

/// Reads the fields of one message in turn.
pub(super) struct Reader<'a>(pub &'a [u8]);

/// The bytes are not protobuf.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Malformed(pub &'static str);

impl<'a> Reader<'a> {
    /// The next field; none at the end.
    pub fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, Malformed> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3)
            .ok()
            // 29 bits are what protobuf allows.
            .filter(|n| *n != 0 && *n < 1 << 29)
            .ok_or(Malformed("illegal field number"))?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.array()?)),
            2 => {
                let length = usize::try_from(self.varint()?);
                Wire::Bytes(self.take(length.unwrap_or(usize::MAX))?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.array()?)),
            _ => return Err(Malformed("illegal wire type")),
        };
        Ok(Some((number, wire)))
    }

    /// An integer of up to ten bytes.
    pub fn varint(&mut self) -> Result<u64, Malformed> {
        let mut value = 0_u64;
        for (index, byte) in self.0.iter().enumerate().take(10) {
            // The tenth byte holds but one bit.
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                self.0 = &self.0[index + 1..];
                return Ok(value);
            }
        }
        Err(Malformed(if self.0.len() < 10 {
            "unexpected end"
        } else {
            "integer overflow"
        }))
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Malformed> {
        let (taken, rest) = self
            .0
            .split_at_checked(length)
            .ok_or(Malformed("unexpected end"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Malformed> {
        let (taken, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(Malformed("unexpected end"))?;
        self.0 = rest;
        Ok(*taken)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_turn() {
        let bytes = [
            8, 150, 1, 18, 2, b'o', b'k', 25, 1, 0, 0, 0, 0, 0, 0, 0, 37, 2, 0, 0, 0,
        ];
        let mut reader = Reader(&bytes);
        let mut read = || reader.next().unwrap();
        assert_eq!(read(), Some((1, Wire::Varint(150))));
        assert_eq!(read(), Some((2, Wire::Bytes(b"ok"))));
        assert_eq!(read(), Some((3, Wire::Fixed64(1))));
        assert_eq!(read(), Some((4, Wire::Fixed32(2))));
        assert_eq!(read(), None);
    }

    #[test]
    fn integers_have_at_most_64_bits() {
        let max = [255, 255, 255, 255, 255, 255, 255, 255, 255, 1];
        assert_eq!(Reader(&max).varint(), Ok(u64::MAX));
        for bytes in [&[255; 11][..], &[128; 3], &[]] {
            assert!(Reader(bytes).varint().is_err(), "{bytes:?}");
        }
    }

    #[test]
    fn what_is_cut_off_or_illegal_is_refused() {
        for bytes in [
            &[8][..],
            &[18, 3, 1, 2],
            &[25, 1, 2],
            &[37, 1],
            &[0, 1],
            &[11],
            &[14],
            &[18, 255, 255, 255, 255, 255, 255, 255, 255, 255, 1],
        ] {
            assert!(Reader(bytes).next().is_err(), "{bytes:?}");
        }
    }
}
