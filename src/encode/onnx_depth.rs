//! How deep the graphs of an ONNX file are within each other. The decoder calls itself for each level, so
//! that a deep file would exhaust the stack.

/// A message whose fields can lead to deeper levels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OnnxMessage {
    Model,
    Graph,
    Node,
    Attribute,
    Value,
    Type,
    Sequence,
}

impl OnnxMessage {
    /// The message in a field with this number, if it can lead to deeper levels.
    fn within(self, field: u64) -> Option<OnnxMessage> {
        match (self, field) {
            (OnnxMessage::Model, 7) | (OnnxMessage::Attribute, 6 | 11) => Some(OnnxMessage::Graph),
            (OnnxMessage::Graph, 1) => Some(OnnxMessage::Node),
            (OnnxMessage::Graph, 11..=13) => Some(OnnxMessage::Value),
            (OnnxMessage::Node, 5) => Some(OnnxMessage::Attribute),
            (OnnxMessage::Value, 2) | (OnnxMessage::Sequence, 1) => Some(OnnxMessage::Type),
            (OnnxMessage::Type, 4) => Some(OnnxMessage::Sequence),
            _ => None,
        }
    }
}

/// Levels of graphs and types in the bytes of a file. What is no ONNX file has some number of levels too.
pub(super) fn levels(file: &[u8]) -> usize {
    let mut deepest = 0;
    let mut pending = vec![(OnnxMessage::Model, file, 0)];
    while let Some((message, mut rest, level)) = pending.pop() {
        deepest = deepest.max(level);
        while let Some((number, content, after)) = next_field(rest) {
            if let Some(inner) = message.within(number) {
                let is_level = matches!(inner, OnnxMessage::Graph | OnnxMessage::Type);
                pending.push((inner, content, level + usize::from(is_level)));
            }
            rest = after;
        }
    }
    deepest
}

/// The number of the first field of a message, its content if it is a message, and the bytes after it.
fn next_field(bytes: &[u8]) -> Option<(u64, &[u8], &[u8])> {
    let (key, rest) = varint(bytes)?;
    let (content, after): (&[u8], &[u8]) = match key & 7 {
        0 => (&[], varint(rest)?.1),
        1 => (&[], rest.get(8..)?),
        2 => {
            let (length, rest) = varint(rest)?;
            // The decoder may read the start of a message that is cut short.
            rest.split_at(usize::try_from(length).unwrap_or(usize::MAX).min(rest.len()))
        }
        5 => (&[], rest.get(4..)?),
        _ => return None,
    };
    Some((key >> 3, content, after))
}

fn varint(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let mut value = 0;
    for (i, byte) in bytes.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            return Some((value, &bytes[i + 1..]));
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field that holds a message.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes.extend(content);
        bytes
    }

    #[test]
    fn counts_graphs_in_graphs_and_types_in_types() {
        let mut graph = Vec::new();
        for count in 1..=1000 {
            let model = field(7, &graph);
            assert_eq!(levels(&model), count);
            graph = field(1, &field(5, &[vec![0x18, 1], field(6, &graph)].concat()));
        }
        let short = [&[7 << 3 | 2, 0x7f][..], &field(1, &field(5, &field(6, &[])))].concat();
        assert_eq!(levels(&short), 2, "the length is beyond the end");
        let mut of = vec![0x08, 1];
        for _ in 0..1000 {
            of = field(4, &field(1, &of));
        }
        assert_eq!(levels(&field(7, &field(11, &field(2, &of)))), 1002);
        assert_eq!(levels(include_bytes!("../../tests/reference/tiny.onnx")), 2, "a graph, and types of its values");
    }

    #[test]
    fn a_deep_file_is_refused_without_its_depth_in_stack() {
        let mut graph = Vec::new();
        for _ in 0..5000 {
            graph = field(1, &field(5, &field(6, &graph)));
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("deep.onnx");
        std::fs::write(&path, field(7, &graph)).unwrap();
        std::fs::write(dir.path().join("deep.json"), "{}").unwrap();
        let thread = std::thread::Builder::new().stack_size(1 << 20);
        let opened = thread.spawn(move || crate::encode::onnx::open(&path, None).err().unwrap().to_string());
        let error = opened.unwrap().join().unwrap();
        assert!(error.contains("found 5001 levels of graphs and types, expected at most 32"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_have_levels(bytes in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64)) {
            proptest::prop_assert!(levels(&bytes) <= bytes.len());
        }
    }
}
