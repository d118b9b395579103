//! The part of Python's pickles that `torch.save` makes state dicts of, for files that nobody vouches for.
//!
//! Nothing that a pickle names is called. Values are places in one list, so that however they share and nest each other nothing is copied, nothing recurses, and what is
//! kept grows with the bytes that were read; of those, and of steps, there are only so many.

use std::collections::HashMap;
use std::io::Read;

/// Longest pickle. That of a state dict takes some 100 bytes a tensor.
const MAX_BYTES: u64 = 4 << 20;
/// Most opcodes; a tensor takes some 40.
const MAX_STEPS: usize = 1 << 18;

/// A value, by its place in [`Pickle::values`].
pub(in crate::encode) type At = usize;

pub(in crate::encode) enum Value {
    /// Something that no tensor needs: `None`, a truth value, a long or broken number.
    Other,
    Int(i64),
    Text(String),
    /// The name of a class or function, without that of its module.
    Global(String),
    Tuple(Vec<At>),
    List(Vec<At>),
    Dict(Vec<(At, At)>),
    /// What is called, and with which tuple.
    Call(At, At),
    /// What the pickle leaves to its reader: torch's storages.
    Persistent(At),
}

/// What one pickle describes.
pub(in crate::encode) struct Pickle {
    values: Vec<Value>,
    root: At,
}

impl Pickle {
    /// Reads up to the end of one pickle, and no further.
    pub(in crate::encode) fn read(reader: &mut impl Read) -> Result<Pickle, String> {
        let mut machine = Machine {
            reader: reader.take(MAX_BYTES),
            values: Vec::new(),
            stack: Vec::new(),
            marks: Vec::new(),
            memo: HashMap::new(),
        };
        for _ in 0..MAX_STEPS {
            if machine.step()? {
                let root = machine.pop()?;
                return Ok(Pickle { values: machine.values, root });
            }
        }
        Err(format!("it has more than {MAX_STEPS} steps"))
    }

    pub(in crate::encode) fn root(&self) -> At {
        self.root
    }

    pub(in crate::encode) fn get(&self, at: At) -> Option<&Value> {
        self.values.get(at)
    }

    pub(in crate::encode) fn text(&self, at: At) -> Option<&str> {
        match self.get(at)? {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    pub(in crate::encode) fn size(&self, at: At) -> Option<usize> {
        match self.get(at)? {
            Value::Int(number) => usize::try_from(*number).ok(),
            _ => None,
        }
    }

    /// The items of a tuple or list.
    pub(in crate::encode) fn items(&self, at: At) -> Option<&[At]> {
        match self.get(at)? {
            Value::Tuple(items) | Value::List(items) => Some(items),
            _ => None,
        }
    }

    pub(in crate::encode) fn sizes(&self, at: At) -> Option<Vec<usize>> {
        self.items(at)?.iter().map(|item| self.size(*item)).collect()
    }

    /// Keys and values of a dict.
    pub(in crate::encode) fn pairs(&self, at: At) -> Option<&[(At, At)]> {
        match self.get(at)? {
            Value::Dict(pairs) => Some(pairs),
            _ => None,
        }
    }

    /// The name of a class or function.
    pub(in crate::encode) fn named(&self, at: At) -> Option<&str> {
        match self.get(at)? {
            Value::Global(name) => Some(name),
            _ => None,
        }
    }
}

/// The stack machine that pickles are written for.
struct Machine<R> {
    reader: R,
    values: Vec<Value>,
    stack: Vec<At>,
    /// Heights of the stack.
    marks: Vec<usize>,
    memo: HashMap<u32, At>,
}

impl<R: Read> Machine<R> {
    fn bytes<const N: usize>(&mut self) -> Result<[u8; N], String> {
        let mut bytes = [0; N];
        self.reader
            .read_exact(&mut bytes)
            .map_err(|_| format!("it ends early, or is longer than {MAX_BYTES} bytes"))?;
        Ok(bytes)
    }

    fn byte(&mut self) -> Result<u8, String> {
        Ok(self.bytes::<1>()?[0])
    }

    fn word(&mut self) -> Result<u32, String> {
        Ok(u32::from_le_bytes(self.bytes()?))
    }

    /// So many bytes of text. Room is made for what comes, not for what is promised.
    fn text(&mut self, length: u32) -> Result<String, String> {
        let mut bytes = Vec::new();
        let read = self.reader.by_ref().take(u64::from(length)).read_to_end(&mut bytes).map_err(|e| e.to_string())?;
        if read < length as usize {
            return Err(format!("a text of {length} bytes ends after {read}"));
        }
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    fn line(&mut self) -> Result<String, String> {
        let mut bytes = Vec::new();
        loop {
            match self.byte()? {
                b'\n' => return Ok(String::from_utf8_lossy(&bytes).into_owned()),
                byte => bytes.push(byte),
            }
        }
    }

    fn push(&mut self, value: Value) {
        self.stack.push(self.values.len());
        self.values.push(value);
    }

    fn pop(&mut self) -> Result<At, String> {
        let floor = self.marks.last().copied().unwrap_or(0);
        if self.stack.len() <= floor {
            return Err("it takes more values than it has".to_owned());
        }
        self.stack.pop().ok_or_else(|| "it takes more values than it has".to_owned())
    }

    /// What lies above the last mark.
    fn marked(&mut self) -> Result<Vec<At>, String> {
        let mark = self.marks.pop().ok_or("it takes a mark that it has not set")?;
        Ok(self.stack.split_off(mark))
    }

    fn tuple(&mut self, length: usize) -> Result<(), String> {
        let mut items = (0..length).map(|_| self.pop()).collect::<Result<Vec<At>, _>>()?;
        items.reverse();
        self.push(Value::Tuple(items));
        Ok(())
    }

    /// Puts items into the list on the stack, or keys and values into the dict.
    fn extend(&mut self, items: Vec<At>) -> Result<(), String> {
        let target = self.stack.last().and_then(|at| self.values.get_mut(*at));
        match target {
            Some(Value::List(list)) => list.extend(items),
            Some(Value::Dict(pairs)) => pairs.extend(items.chunks_exact(2).map(|pair| (pair[0], pair[1]))),
            _ => return Err("it fills something that is neither a list nor a dict".to_owned()),
        }
        Ok(())
    }

    /// A call; only that of a dict that keeps its order is done.
    fn reduce(&mut self) -> Result<(), String> {
        let (arguments, callable) = (self.pop()?, self.pop()?);
        let is_dict = matches!(self.values.get(callable), Some(Value::Global(name)) if name == "OrderedDict");
        if !is_dict {
            self.push(Value::Call(callable, arguments));
            return Ok(());
        }
        // Python 2 gives a list of pairs along.
        let items = |at: At| match self.values.get(at) {
            Some(Value::Tuple(items) | Value::List(items)) => items.as_slice(),
            _ => &[],
        };
        let given = items(arguments).first().map_or(&[][..], |list| items(*list));
        let pair = |at: &At| match items(*at) {
            [key, value] => Some((*key, *value)),
            _ => None,
        };
        let pairs = given.iter().filter_map(pair).collect();
        self.push(Value::Dict(pairs));
        Ok(())
    }

    fn remember(&mut self, key: u32) -> Result<(), String> {
        let at = *self.stack.last().ok_or("it remembers what it does not have")?;
        self.memo.insert(key, at);
        Ok(())
    }

    fn recall(&mut self, key: u32) -> Result<(), String> {
        let at = *self.memo.get(&key).ok_or("it recalls what it has not remembered")?;
        self.stack.push(at);
        Ok(())
    }

    /// One opcode; whether it was the last.
    fn step(&mut self) -> Result<bool, String> {
        match self.byte()? {
            b'.' => return Ok(true),
            // The protocol's number.
            0x80 => {
                self.byte()?;
            }
            b'(' => self.marks.push(self.stack.len()),
            b'0' => {
                self.pop()?;
            }
            b'N' | 0x88 | 0x89 => self.push(Value::Other),
            b'G' => {
                self.bytes::<8>()?;
                self.push(Value::Other);
            }
            b'J' => {
                let number = i32::from_le_bytes(self.bytes()?);
                self.push(Value::Int(number.into()));
            }
            b'K' => {
                let number = self.byte()?;
                self.push(Value::Int(number.into()));
            }
            b'M' => {
                let number = u16::from_le_bytes(self.bytes()?);
                self.push(Value::Int(number.into()));
            }
            0x8a => {
                let length = usize::from(self.byte()?);
                let bytes = (0..length).map(|_| self.byte()).collect::<Result<Vec<u8>, _>>()?;
                // The sign is that of the last byte.
                let sign = if bytes.last().is_some_and(|byte| *byte >= 0x80) { 0xff } else { 0 };
                let at = |i: usize| bytes.get(i).copied().unwrap_or(sign);
                let number = i64::from_le_bytes(std::array::from_fn(at));
                self.push(if length <= 8 { Value::Int(number) } else { Value::Other });
            }
            b'I' => {
                let number = self.line()?.parse();
                self.push(number.map_or(Value::Other, Value::Int));
            }
            b'L' => {
                let number = self.line()?.trim_end_matches('L').parse();
                self.push(number.map_or(Value::Other, Value::Int));
            }
            b'U' | 0x8c => {
                let length = self.byte()?.into();
                let text = self.text(length)?;
                self.push(Value::Text(text));
            }
            b'X' | b'T' => {
                let length = self.word()?;
                let text = self.text(length)?;
                self.push(Value::Text(text));
            }
            b'c' => {
                let (_module, name) = (self.line()?, self.line()?);
                self.push(Value::Global(name));
            }
            b')' => self.push(Value::Tuple(Vec::new())),
            0x85 => self.tuple(1)?,
            0x86 => self.tuple(2)?,
            0x87 => self.tuple(3)?,
            b't' => {
                let items = self.marked()?;
                self.push(Value::Tuple(items));
            }
            b']' => self.push(Value::List(Vec::new())),
            b'}' => self.push(Value::Dict(Vec::new())),
            b'a' => {
                let item = self.pop()?;
                self.extend(vec![item])?;
            }
            b's' => {
                let (value, key) = (self.pop()?, self.pop()?);
                self.extend(vec![key, value])?;
            }
            b'e' | b'u' => {
                let items = self.marked()?;
                self.extend(items)?;
            }
            b'Q' => {
                let id = self.pop()?;
                self.push(Value::Persistent(id));
            }
            b'R' => self.reduce()?,
            // The state of an object: of a dict's, that of its class.
            b'b' => {
                self.pop()?;
            }
            b'q' => {
                let key = self.byte()?.into();
                self.remember(key)?;
            }
            b'r' => {
                let key = self.word()?;
                self.remember(key)?;
            }
            b'h' => {
                let key = self.byte()?.into();
                self.recall(key)?;
            }
            b'j' => {
                let key = self.word()?;
                self.recall(key)?;
            }
            other => return Err(format!("the opcode {other:#04x} is not one that state dicts need")),
        }
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_shared_and_not_copied() {
        // A tuple of a tuple of .., each twice: 2^40 if they were.
        let mut bytes = b"\x80\x02)".to_vec();
        for i in 0..40 {
            bytes.extend([b'q', i, b'h', i, 0x86]);
        }
        bytes.push(b'.');
        let pickle = Pickle::read(&mut bytes.as_slice()).unwrap();
        assert_eq!(pickle.values.len(), 41);
    }

    #[test]
    fn numbers_of_any_length_are_read() {
        let bytes = b"(J\xff\xff\xff\xffK\x07M\x00\x01\x8a\x01\xff\x8a\x00\x8a\x02\x00\x01I12\nL34L\nt.";
        let pickle = Pickle::read(&mut bytes.as_slice()).unwrap();
        let numbers = pickle.items(pickle.root()).unwrap().iter().map(|at| match pickle.get(*at) {
            Some(Value::Int(number)) => *number,
            _ => panic!("no number"),
        });
        assert_eq!(numbers.collect::<Vec<i64>>(), [-1, 7, 256, -1, 0, 256, 12, 34]);
    }

    #[test]
    fn what_no_state_dict_needs_is_an_error() {
        for (bytes, told) in [
            (&b"\x80\x02\x85."[..], "takes more values"),
            (b"(.", "takes more values"),
            (b"t.", "a mark"),
            (b"h\x01.", "has not remembered"),
            (b"K", "ends early"),
            (b"X\xff\xff\xff\xffabc.", "ends after 4"),
            (b"Na.", "neither a list nor a dict"),
            (b"NNa.", "neither a list nor a dict"),
            (b"\x95.", "the opcode 0x95"),
        ] {
            let error = Pickle::read(&mut &*bytes).err().unwrap();
            assert!(error.contains(told), "{bytes:?}: {error}");
        }
        let deep = [&b"}"[..], &vec![0x85; 2_000_000]].concat();
        assert!(Pickle::read(&mut deep.as_slice()).err().unwrap().contains("steps"));
    }
}
