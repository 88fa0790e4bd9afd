//! DER, as much of it as a certificate's fields need: elements with definite lengths, each in its one spelling.

/// The tags that a certificate's fields have here.
pub(super) mod tag {
    pub(in crate::certificate) const BOOLEAN: u8 = 0x01;
    pub(in crate::certificate) const INTEGER: u8 = 0x02;
    pub(in crate::certificate) const BIT_STRING: u8 = 0x03;
    pub(in crate::certificate) const OCTET_STRING: u8 = 0x04;
    pub(in crate::certificate) const OID: u8 = 0x06;
    pub(in crate::certificate) const UTC_TIME: u8 = 0x17;
    pub(in crate::certificate) const GENERALIZED_TIME: u8 = 0x18;
    pub(in crate::certificate) const SEQUENCE: u8 = 0x30;
    pub(in crate::certificate) const VERSION: u8 = 0xa0;
    pub(in crate::certificate) const EXTENSIONS: u8 = 0xa3;
    pub(in crate::certificate) const EMAIL_NAME: u8 = 0x81;
    pub(in crate::certificate) const DNS_NAME: u8 = 0x82;
    pub(in crate::certificate) const URI_NAME: u8 = 0x86;
}

/// One element: its tag, what it holds, and all of it.
#[derive(Clone, Copy)]
pub(super) struct Element<'a> {
    pub(super) tag: u8,
    pub(super) content: &'a [u8],
    pub(super) whole: &'a [u8],
}

/// Reads one element after the other. `None` is what is not DER, or not what was asked for.
#[derive(Clone)]
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn peek_tag(&self) -> Option<u8> {
        self.0.first().copied()
    }

    pub(super) fn element(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, header) = match first {
            0..=0x7f => (usize::from(first), 2),
            // A longer form than the length needs would be a second spelling.
            0x81 => (usize::from(*rest.first()?), 3),
            0x82 => (usize::from(u16::from_be_bytes([*rest.first()?, *rest.get(1)?])), 4),
            _ => return None,
        };
        let least = match header {
            2 => 0,
            3 => 0x80,
            _ => 0x100,
        };
        let whole = self.0.get(..header + length).filter(|_| length >= least)?;
        self.0 = &self.0[whole.len()..];
        Some(Element { tag, content: &whole[header..], whole })
    }

    /// The content of the next element, which must have this tag.
    pub(super) fn expect(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.element().filter(|element| element.tag == tag).map(|element| element.content)
    }

    /// The elements within the next one, which must have this tag.
    pub(super) fn nested(&mut self, tag: u8) -> Option<Reader<'a>> {
        self.expect(tag).map(Reader)
    }
}

/// Reads the single element that `bytes` must be.
pub(super) fn only(bytes: &[u8], tag: u8) -> Option<Reader<'_>> {
    let mut reader = Reader(bytes);
    let inner = reader.nested(tag)?;
    reader.is_at_end().then_some(inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_has_one_spelling() {
        let content = |bytes: &[u8]| Reader::new(bytes).element().map(|element| element.content.len());
        let long = |header: &[u8], length: usize| [header, &vec![0; length]].concat();
        assert_eq!(content(&[4, 2, 1, 2]), Some(2));
        assert_eq!(content(&long(&[4, 0x81, 0x80], 0x80)), Some(0x80));
        assert_eq!(content(&long(&[4, 0x82, 1, 0], 0x100)), Some(0x100));
        for wrong in
            [&[][..], &[4], &[4, 2, 1], &[4, 0x80], &[4, 0x81, 1, 9], &[4, 0x82, 0, 1, 9], &[4, 0x84, 0, 0, 0, 1, 9]]
        {
            assert_eq!(content(wrong), None, "{wrong:?}");
        }
        assert!(only(&[0x30, 0], tag::SEQUENCE).is_some());
        assert!(only(&[0x30, 0, 0], tag::SEQUENCE).is_none());
    }
}
