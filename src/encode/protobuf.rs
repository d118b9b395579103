//! Checks the structure of an ONNX file before rten parses it. The parser adds a length to a position without
//! a check of overflow and waits for the end of an integer of more than ten bytes, so that it could read a
//! small file without end. It recurses into graphs that are in attributes of nodes.

/// Most messages within each other. A graph in an attribute is three deeper than its own graph.
const MAX_DEPTH: usize = 24;

/// The messages that the parser looks into.
#[derive(Debug, Clone, Copy)]
enum MessageKind {
    Model,
    Graph,
    Node,
    Attribute,
    Tensor,
    Value,
    Type,
    Sequence,
    TensorType,
    Shape,
    /// A message without messages in it.
    Leaf,
}

impl MessageKind {
    /// The message in a field; `None` if the field holds numbers or text, or is skipped.
    fn within(self, field: u64) -> Option<MessageKind> {
        Some(match (self, field) {
            (MessageKind::Model, 7) | (MessageKind::Attribute, 6) => MessageKind::Graph,
            (MessageKind::Graph, 1) => MessageKind::Node,
            (MessageKind::Graph, 5) | (MessageKind::Attribute, 5) => MessageKind::Tensor,
            (MessageKind::Graph, 11..=13) => MessageKind::Value,
            (MessageKind::Node, 5) => MessageKind::Attribute,
            (MessageKind::Value, 2) | (MessageKind::Sequence, 1) => MessageKind::Type,
            (MessageKind::Type, 1) => MessageKind::TensorType,
            (MessageKind::Type, 4) => MessageKind::Sequence,
            (MessageKind::TensorType, 2) => MessageKind::Shape,
            (MessageKind::Model, 8 | 14) | (MessageKind::Tensor, 13) | (MessageKind::Shape, 1) => MessageKind::Leaf,
            _ => return None,
        })
    }
}

/// Whether the numbers in a field of this kind of message end where the field does.
fn holds_whole_numbers(kind: MessageKind, field: u64, content: &[u8]) -> bool {
    match (kind, field) {
        // float_data
        (MessageKind::Tensor, 4) => content.len().is_multiple_of(4),
        // double_data
        (MessageKind::Tensor, 10) => content.len().is_multiple_of(8),
        // int32_data, int64_data
        (MessageKind::Tensor, 5 | 7) => {
            let mut at = 0;
            while at < content.len() {
                if varint(content, &mut at).is_none() {
                    return false;
                }
            }
            true
        }
        _ => true,
    }
}

/// Whether each field of an ONNX file ends within its message, each number ends within its field, and no
/// message is nested too deep.
pub(super) fn is_well_formed(bytes: &[u8]) -> bool {
    let mut at = 0;
    let mut open = vec![(bytes.len(), MessageKind::Model)];
    while let Some(&(end, kind)) = open.last() {
        if at == end {
            open.pop();
            continue;
        }
        let rest = &bytes[..end];
        let Some(key) = varint(rest, &mut at) else { return false };
        // The low three bits are the form of the value.
        let length = match key & 7 {
            0 => varint(rest, &mut at).map(|_| 0),
            1 => Some(8),
            2 => varint(rest, &mut at),
            5 => Some(4),
            _ => None,
        };
        let Some(stop) = length.and_then(|length| at.checked_add(usize::try_from(length).ok()?)) else { return false };
        if stop > end {
            return false;
        }
        match kind.within(key >> 3).filter(|_| key & 7 == 2) {
            Some(_) if open.len() == MAX_DEPTH => return false,
            Some(inner) => open.push((stop, inner)),
            None if key & 7 == 2 && !holds_whole_numbers(kind, key >> 3, &bytes[at..stop]) => return false,
            None => at = stop,
        }
    }
    true
}

/// The number at a position, in seven bits a byte, lowest first.
fn varint(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let mut value = 0;
    for shift in (0..70).step_by(7) {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A field of this number that holds bytes.
    fn field(number: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![number << 3 | 2];
        let mut length = content.len();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        [bytes, content.to_vec()].concat()
    }

    /// A graph within the attribute of a node within a graph, and so on.
    fn nested(graphs: usize) -> Vec<u8> {
        let graph = (1..graphs).fold(vec![], |graph, _| field(1, &field(5, &field(6, &graph))));
        field(7, &graph)
    }

    #[test]
    fn accepts_networks_and_a_few_graphs_within_graphs() {
        assert!(is_well_formed(include_bytes!("../../tests/reference/tiny.onnx")));
        assert!(is_well_formed(&nested(6)));
        assert!(is_well_formed(b""));
    }

    #[test]
    fn refuses_deep_graphs_on_a_small_stack() {
        let deep = nested(2_000);
        let checked = std::thread::Builder::new().stack_size(64 << 10).spawn(move || is_well_formed(&deep));
        assert!(!checked.unwrap().join().unwrap());
        assert!(!is_well_formed(&nested(9)));
    }

    #[test]
    fn refuses_lists_that_end_within_a_number() {
        let tensor = |list: u8, content: &[u8]| field(7, &field(5, &field(list, content)));
        for (list, whole) in [(4, &[0xff; 8][..]), (10, &[0xff; 8]), (5, &[0xff, 1, 2]), (7, &[3, 0xff, 0x7f])] {
            assert!(is_well_formed(&tensor(list, whole)), "{list}");
            let cut = [whole, &[0xff]].concat();
            assert!(!is_well_formed(&tensor(list, &cut)), "{list}");
        }
        for list in [5, 7] {
            assert!(!is_well_formed(&tensor(list, &[0xff; 12])), "{list}: an integer of more than ten bytes");
        }
    }

    #[test]
    fn refuses_lengths_beyond_their_message() {
        let whole = include_bytes!("../../tests/reference/tiny.onnx");
        assert!(!is_well_formed(&whole[..whole.len() - 1]));
        // A length of 2^64 - 4, which leads back to the start if it is added without a check.
        let back = [&[0x12, 0xfc][..], &[0xff; 8], &[0x01]].concat();
        for bytes in [back.clone(), field(7, &back), vec![0x12], vec![0x13, 0x14], vec![0x09, 0], vec![0xff; 20]] {
            assert!(!is_well_formed(&bytes), "{bytes:?}");
        }
    }
}
