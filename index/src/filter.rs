//! Filters: their syntax, their limits and their evaluation.
//!
//! tantivy parses a filter and finds the documents of each clause. This module combines the clauses, as sets
//! of bits and without recursion. tantivy's own combination needs stack for each level, and time that grows
//! with the square of the levels.

use tantivy::query::{BooleanQuery, EmptyQuery, EnableScoring, ExistsQuery, Occur, PhrasePrefixQuery, PhraseQuery};
use tantivy::query::{Query, QueryParser, QueryParserError, RangeQuery};
use tantivy::query_grammar::{UserInputAst, UserInputBound, UserInputLeaf, parse_query};
use tantivy::schema::Type;
use tantivy::{DocAddress, DocId, Searcher, SegmentReader};

/// The syntax of filters, as text for users. The message of [`Error::Filter`](crate::Error::Filter) contains
/// it.
pub const FILTER_SYNTAX: &str = "\
Words match in path, title, label and text (all strings of the metadata); all words must match.
Fields: path:holiday  title:\"first wave\"  label:surfing  label_exact:\"rock climbing\"  id:abc
        duration:[10 TO 60] (seconds)  duration:>30  size:<1000000 (bytes)  extra.camera:gopro
Join with AND, OR, NOT (or -word) and parentheses; quote phrases and values with punctuation.";

/// Largest size of a filter in bytes.
pub const MAX_FILTER_BYTES: usize = 8192;
/// Most words of a filter. Words of phrases and sets count, ranges count as one word; `AND`, `OR`, `NOT` and
/// names of fields do not count.
pub const MAX_FILTER_WORDS: usize = 128;
/// Most levels of clauses within clauses, after pairs of negations are removed.
const MAX_LEVELS: usize = 32;
/// Most parentheses and `NOT`s before parsing. The parser calls itself for each of them, and copies what is
/// within them.
const MAX_OPENINGS: usize = 64;
/// Most parts between white space, and most characters that can end a part without white space. They bound
/// the clauses that the parser makes before they can be counted.
const MAX_PARTS: usize = 512;
/// The characters that can end a part.
const PART_ENDS: [char; 5] = ['"', '\'', '^', ':', '*'];
/// Most tabs and line ends. To find the name of a field, the parser reads across them to the next blank or
/// special character, for each part again.
const MAX_BREAKS: usize = 32;
/// Most clauses that may read a large part of the index: ranges of words, phrases with a slop or a prefix,
/// and tests for any value of a field.
const MAX_BROAD: usize = 2;
/// Most words that phrases compare, for each video of the index. A phrase reads the positions of each of its
/// words in each video that has all of them.
const MAX_COMPARED_EACH: usize = 32;
/// An index of fewer videos has the limit of an index of this many.
const SMALL_INDEX: usize = 10_000;
/// Largest distance between the words of a phrase, as in `"a b"~32`. tantivy compares each position of a word
/// with all positions of the next word within this distance.
const MAX_SLOP: u32 = 32;
/// Longest reason of a refusal in characters. Some of tantivy's messages quote the filter.
const MAX_REASON: usize = 300;

/// Refuses a count above a limit.
fn at_most(limit: usize, what: &str, found: usize) -> Result<(), String> {
    match found <= limit {
        true => Ok(()),
        false => Err(format!("expected at most {limit} {what}, found {found}")),
    }
}

/// The message of an error, which becomes the end of a sentence.
fn reason(error: impl ToString) -> String {
    error.to_string().trim_end_matches('.').chars().take(MAX_REASON).collect()
}

/// Why tantivy refuses a clause. Most of its messages name its own types, or another cause.
fn refusal(error: QueryParserError) -> String {
    match error {
        QueryParserError::FieldDoesNotExist(field) => reason(format!("there is no field '{field}'")),
        QueryParserError::ExpectedInt(_) => "expected a whole number".to_owned(),
        QueryParserError::ExpectedFloat(_) => "expected a number".to_owned(),
        QueryParserError::RangeMustNotHavePhrase => "expected single words at the ends of a range".to_owned(),
        QueryParserError::PhrasePrefixRequiresAtLeastTwoTerms { .. } => {
            "expected at least two words in a phrase that ends in *".to_owned()
        }
        other => reason(other),
    }
}

/// A clause of a filter: a leaf, or a group of the clauses that name it as their parent.
struct FilterClause {
    parent: usize,
    occur: Occur,
    leaf: Option<UserInputLeaf>,
}

/// A filter within the limits. Each clause is behind its parent; the first clause is the whole filter.
pub(crate) struct ParsedFilter(Vec<FilterClause>);

impl ParsedFilter {
    /// # Errors
    /// The reason, if the filter does not parse or exceeds a limit.
    pub(crate) fn parse(text: &str) -> Result<ParsedFilter, String> {
        check_before_parsing(text)?;
        let ast = parse_query(text).map_err(|_| "its syntax is wrong".to_owned())?;
        let (mut words, mut levels, mut slop) = (0, 0, 0);
        let mut clauses = Vec::new();
        let mut pending = vec![(ast, 0, Occur::Must, 0)];
        while let Some((ast, parent, occur, level)) = pending.pop() {
            let number = clauses.len();
            let leaf = match simplified(ast) {
                UserInputAst::Leaf(leaf) => {
                    check_leaf(&leaf)?;
                    if let Some(halves) = split_range(&leaf) {
                        pending.push((halves, parent, occur, level));
                        continue;
                    }
                    words += words_of(&leaf);
                    slop = slop.max(slop_of(&leaf));
                    Some(*leaf)
                }
                UserInputAst::Clause(children) => {
                    levels = levels.max(level);
                    let children = children.into_iter();
                    pending.extend(children.map(|(occur, ast)| (ast, number, occur.unwrap_or(Occur::Must), level + 1)));
                    None
                }
                UserInputAst::Boost(ast, _) => {
                    pending.push((*ast, parent, occur, level));
                    continue;
                }
            };
            clauses.push(FilterClause { parent, occur, leaf });
        }
        at_most(MAX_LEVELS, "nested levels", levels)?;
        at_most(MAX_FILTER_WORDS, "words", words)?;
        at_most(MAX_SLOP as usize, "as the number after ~", slop as usize)?;
        Ok(ParsedFilter(clauses))
    }

    /// The documents that the filter matches, dead ones left out.
    ///
    /// # Errors
    /// The reason, if a clause names an unknown field or value, or reads too much of the index.
    pub(crate) fn documents(self, parser: &QueryParser, searcher: &Searcher) -> Result<Vec<DocAddress>, String> {
        let mut lookup = ClauseLookup::new(parser, searcher);
        let mut groups: Vec<ClauseGroup> = Vec::new();
        groups.resize_with(self.0.len(), ClauseGroup::default);
        let mut whole = None;
        // Backwards, so that a group is complete before it is needed.
        for clause in self.0.into_iter().rev() {
            let group = groups.pop().unwrap_or_default();
            let found = match clause.leaf {
                Some(leaf) => lookup.documents(leaf)?,
                None => group.documents(&lookup),
            };
            match groups.get_mut(clause.parent) {
                Some(parent) => found.into_iter().for_each(|found| parent.add(clause.occur, found)),
                None => whole = found,
            }
        }
        Ok(whole.map(|found| lookup.alive(&found)).unwrap_or_default())
    }
}

/// Checks what the parser itself cannot bear.
fn check_before_parsing(text: &str) -> Result<(), String> {
    at_most(MAX_FILTER_BYTES, "bytes", text.len())?;
    let negations = text.split("NOT").skip(1).filter(|rest| rest.starts_with([' ', '\t', '\r', '\n'])).count();
    let openings = text.bytes().filter(|byte| *byte == b'(').count() + negations;
    at_most(MAX_OPENINGS, "opening parentheses and NOTs", openings)?;
    at_most(MAX_PARTS, "parts between white space", text.split_whitespace().count())?;
    at_most(MAX_PARTS, "of the characters \" ' ^ : *", text.matches(PART_ENDS).count())?;
    at_most(MAX_BREAKS, "tabs and line ends", text.matches(['\t', '\r', '\n']).count())
}

/// The inner clause of a clause that only negates it.
fn negated(ast: &mut UserInputAst) -> Option<&mut UserInputAst> {
    match ast {
        UserInputAst::Clause(clauses) => match &mut clauses[..] {
            [(Some(Occur::MustNot), only)] => Some(only),
            _ => None,
        },
        _ => None,
    }
}

/// The same filter without pairs of negations at its start.
fn simplified(mut ast: UserInputAst) -> UserInputAst {
    while let Some(inner) = negated(&mut ast).and_then(negated) {
        ast = std::mem::replace(inner, UserInputAst::empty_query());
    }
    ast
}

/// Number of words that the tokenizer finds in a text, at least one.
fn words_in(text: &str) -> usize {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).count().max(1)
}

fn words_of(leaf: &UserInputLeaf) -> usize {
    match leaf {
        UserInputLeaf::Literal(literal) => words_in(&literal.phrase),
        UserInputLeaf::Set { elements, .. } => elements.iter().map(|element| words_in(element)).sum::<usize>().max(1),
        _ => 1,
    }
}

/// Refuses regular expressions, and names of fields with control characters, at which tantivy panics.
fn check_leaf(leaf: &UserInputLeaf) -> Result<(), String> {
    let field = match leaf {
        UserInputLeaf::Literal(literal) => literal.field_name.as_deref(),
        UserInputLeaf::Exists { field } => Some(field.as_str()),
        UserInputLeaf::Range { field, .. } | UserInputLeaf::Set { field, .. } => field.as_deref(),
        UserInputLeaf::Regex { .. } => {
            return Err("regular expressions, as in /a.*/, are not supported; quote text that contains /".to_owned());
        }
        UserInputLeaf::All => None,
    };
    match field.is_some_and(|field| field.contains(char::is_control)) {
        true => Err("expected a field without control characters".to_owned()),
        false => Ok(()),
    }
}

/// Whether tantivy surely reads both texts as values of one type in a field of the metadata.
fn have_one_type(first: &str, last: &str) -> bool {
    let is_integer: fn(&str) -> bool = |text| text.parse::<i64>().is_ok();
    let has_fraction: fn(&str) -> bool =
        |text| text.parse::<f64>().is_ok_and(|number| number.is_finite() && number.fract() != 0.0);
    // A date has colons.
    let is_text: fn(&str) -> bool =
        |text| text.parse::<f64>().is_err() && !text.contains(':') && text.parse::<bool>().is_err();
    [is_integer, has_fraction, is_text].iter().any(|is_type| is_type(first) && is_type(last))
}

/// A range over a field of the metadata whose ends may have different types, as two ranges with one end each.
/// tantivy panics at a range of two types.
fn split_range(leaf: &UserInputLeaf) -> Option<UserInputAst> {
    let UserInputLeaf::Range { field: Some(field), lower, upper } = leaf else { return None };
    let (first, last) = (lower.term_str(), upper.term_str());
    if !field.starts_with("extra") || first == "*" || last == "*" || have_one_type(first, last) {
        return None;
    }
    let half = |lower: UserInputBound, upper: UserInputBound| {
        UserInputAst::from(UserInputLeaf::Range { field: Some(field.clone()), lower, upper })
    };
    Some(UserInputAst::and(vec![
        half(lower.clone(), UserInputBound::Unbounded),
        half(UserInputBound::Unbounded, upper.clone()),
    ]))
}

fn slop_of(leaf: &UserInputLeaf) -> u32 {
    if let UserInputLeaf::Literal(literal) = leaf { literal.slop } else { 0 }
}

/// A set of documents: one bit for each, segment after segment.
#[derive(Clone)]
struct DocumentBits(Vec<u64>);

impl DocumentBits {
    fn intersect(&mut self, other: &DocumentBits) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= other);
    }

    fn unite(&mut self, other: &DocumentBits) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word |= other);
    }

    fn exclude(&mut self, other: &DocumentBits) {
        self.0.iter_mut().zip(&other.0).for_each(|(word, other)| *word &= !other);
    }
}

/// The clauses of a group, combined by their kind.
#[derive(Default)]
struct ClauseGroup {
    must: Option<DocumentBits>,
    should: Option<DocumentBits>,
    must_not: Option<DocumentBits>,
}

impl ClauseGroup {
    fn add(&mut self, occur: Occur, found: DocumentBits) {
        let (side, combine): (_, fn(&mut DocumentBits, &DocumentBits)) = match occur {
            Occur::Must => (&mut self.must, DocumentBits::intersect),
            Occur::Should => (&mut self.should, DocumentBits::unite),
            Occur::MustNot => (&mut self.must_not, DocumentBits::unite),
        };
        match side {
            Some(before) => combine(before, &found),
            None => *side = Some(found),
        }
    }

    /// The documents of the group; `None` if it has no clauses. A group that only excludes, excludes from all
    /// documents.
    fn documents(self, lookup: &ClauseLookup<'_>) -> Option<DocumentBits> {
        let wanted = self.must.or(self.should);
        let Some(excluded) = self.must_not else { return wanted };
        let mut found = wanted.unwrap_or_else(|| lookup.all());
        found.exclude(&excluded);
        Some(found)
    }
}

/// Finds the documents of single clauses.
struct ClauseLookup<'a> {
    parser: &'a QueryParser,
    searcher: &'a Searcher,
    /// The segments, and the word of [`DocumentBits`] at which each begins.
    segments: Vec<(&'a SegmentReader, usize)>,
    /// Words of [`DocumentBits`].
    length: usize,
    broad: usize,
    compared: usize,
}

impl<'a> ClauseLookup<'a> {
    fn new(parser: &'a QueryParser, searcher: &'a Searcher) -> ClauseLookup<'a> {
        let mut length = 0;
        let place = |reader: &'a SegmentReader| {
            let start = length;
            length += (reader.max_doc() as usize).div_ceil(64);
            (reader, start)
        };
        let segments = searcher.segment_readers().iter().map(place).collect();
        ClauseLookup { parser, searcher, segments, length, broad: 0, compared: 0 }
    }

    /// All documents, and the unused bits at the ends of the segments.
    fn all(&self) -> DocumentBits {
        DocumentBits(vec![u64::MAX; self.length])
    }

    /// The documents that a leaf matches; `None` if it has no words.
    fn documents(&mut self, leaf: UserInputLeaf) -> Result<Option<DocumentBits>, String> {
        let query = self.parser.build_query_from_user_input_ast(leaf.into()).map_err(refusal)?;
        if query.is::<EmptyQuery>() {
            return Ok(None);
        }
        // A word without a field is a query for each of the default fields.
        let parts: Vec<&dyn Query> = match query.downcast_ref::<BooleanQuery>() {
            Some(fields) => fields.clauses().iter().map(|(_, part)| part.as_ref()).collect(),
            None => vec![query.as_ref()],
        };
        self.count_cost(&parts)?;
        let mut found = vec![0; self.length];
        for part in parts {
            let weight = part.weight(EnableScoring::disabled_from_searcher(self.searcher)).map_err(reason)?;
            for (reader, start) in &self.segments {
                let mut add = |docs: &[DocId]| {
                    for doc in docs {
                        if let Some(word) = found.get_mut(start + *doc as usize / 64) {
                            *word |= 1 << (doc % 64);
                        }
                    }
                };
                weight.for_each_no_score(reader, &mut add).map_err(reason)?;
            }
        }
        Ok(Some(DocumentBits(found)))
    }

    /// Refuses the clause if the filter then reads too much. All fields of a clause count once.
    fn count_cost(&mut self, parts: &[&dyn Query]) -> Result<(), String> {
        let is_broad = |part: &&dyn Query| {
            part.is::<ExistsQuery>()
                || part.is::<PhrasePrefixQuery>()
                || part.downcast_ref::<RangeQuery>().is_some_and(|range| range.value_type() == Type::Str)
        };
        self.broad += usize::from(parts.iter().any(is_broad));
        at_most(MAX_BROAD, "ranges of words, phrases that end in *, and fields with any value", self.broad)?;
        for phrase in parts.iter().filter_map(|part| part.downcast_ref::<PhraseQuery>()) {
            let terms = phrase.phrase_terms();
            let videos = terms.iter().map(|term| self.searcher.doc_freq(term).map_err(reason));
            let videos = videos.collect::<Result<Vec<_>, _>>()?;
            self.compared += terms.len() * videos.into_iter().min().unwrap_or(0) as usize;
        }
        let limit = MAX_COMPARED_EACH * (self.searcher.num_docs() as usize).max(SMALL_INDEX);
        at_most(limit, "words of videos to compare with phrases", self.compared)
    }

    /// The live documents of a set.
    fn alive(&self, found: &DocumentBits) -> Vec<DocAddress> {
        let mut addresses = Vec::new();
        for (ordinal, (reader, start)) in self.segments.iter().enumerate() {
            let is_found =
                |doc: &DocId| found.0.get(start + *doc as usize / 64).is_some_and(|word| word >> (doc % 64) & 1 == 1);
            let live = (0..reader.max_doc()).filter(is_found);
            let live = live.filter(|doc| reader.alive_bitset().is_none_or(|alive| alive.is_alive(*doc)));
            addresses.extend(live.map(|doc| DocAddress::new(ordinal as u32, doc)));
        }
        addresses
    }
}
