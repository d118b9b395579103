//! The text index: one tantivy document per video, for filters and metadata.

use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};

use serde_json::Value;
use tantivy::Directory;
use tantivy::collector::DocSetCollector;
use tantivy::query::{AllQuery, QueryParser};
use tantivy::schema::{
    FAST, Field, INDEXED, IndexRecordOption, JsonObjectOptions, OwnedValue, STORED, STRING, Schema, TextFieldIndexing,
    TextOptions,
};
use tantivy::tokenizer::{LowerCaser, RemoveLongFilter, SimpleTokenizer, TextAnalyzer};
use tantivy::{DocAddress, DocSet, ReloadPolicy, TERMINATED, TantivyDocument, TantivyError, Term};

use crate::directory::TextDirectory;
use crate::error::{Error, Result};
use crate::filter::ParsedFilter;
use crate::manifest::{self, Manifest};
use crate::names::META_FILE;
use crate::types::{Video, VideoNumber, VideoSet};

/// Tokenizer of the text fields.
const WORDS: &str = "words";
/// tantivy's tokenizer that keeps a string as one term.
const RAW: &str = "raw";

#[derive(Clone, Copy)]
struct TextFields {
    id: Field,
    number: Field,
    path: Field,
    title: Field,
    label: Field,
    label_exact: Field,
    duration: Field,
    size: Field,
    text: Field,
    extra: Field,
    record: Field,
}

fn schema() -> (Schema, TextFields) {
    let mut schema = Schema::builder();
    let words =
        TextFieldIndexing::default().set_tokenizer(WORDS).set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let text = TextOptions::default().set_indexing_options(words.clone());
    let fields = TextFields {
        id: schema.add_text_field("id", STRING | STORED),
        number: schema.add_u64_field("number", FAST | INDEXED),
        path: schema.add_text_field("path", text.clone()),
        title: schema.add_text_field("title", text.clone()),
        label: schema.add_text_field("label", text.clone()),
        label_exact: schema.add_text_field("label_exact", STRING),
        duration: schema.add_f64_field("duration", FAST | INDEXED),
        size: schema.add_u64_field("size", FAST | INDEXED),
        text: schema.add_text_field("text", text),
        extra: schema.add_json_field("extra", JsonObjectOptions::default().set_indexing_options(words).set_fast(RAW)),
        record: schema.add_text_field("record", STORED),
    };
    (schema.build(), fields)
}

/// The version of tantivy, in the form of the footers of its files.
pub(crate) fn version() -> String {
    serde_json::to_string(tantivy::version()).unwrap_or_default()
}

/// Turns panics into errors: tantivy panics on some damaged files.
fn catch<T>(path: &Path, work: impl FnOnce() -> Result<T>) -> Result<T> {
    std::panic::catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_| Err(Error::damaged(path, "a text index", "files that tantivy cannot read")))
}

/// The text index of one folder.
#[derive(Clone)]
pub(crate) struct TextIndex {
    pub(crate) index: tantivy::Index,
    directory: TextDirectory,
    fields: TextFields,
    /// Folder of the text index, for errors.
    pub(crate) path: PathBuf,
}

impl TextIndex {
    /// Creates an empty text index in the existing, empty folder `path`.
    pub(crate) fn create(path: &Path) -> Result<TextIndex> {
        let directory = TextDirectory::open(path)?;
        let settings = tantivy::IndexSettings::default();
        let index = tantivy::Index::create(directory.clone(), schema().0, settings).map_err(Error::text(path))?;
        TextIndex::with(index, directory, path)
    }

    pub(crate) fn open(path: &Path) -> Result<TextIndex> {
        let directory = TextDirectory::open(path)?;
        let opened = catch(path, || tantivy::Index::open(directory.clone()).map_err(Error::text(path)));
        match opened {
            Ok(index) => TextIndex::with(index, directory, path),
            // Versions 1 and 2 had no checksum in this file.
            Err(error) => Err(manifest::old_version(&path.join(META_FILE)).unwrap_or(error)),
        }
    }

    fn with(index: tantivy::Index, directory: TextDirectory, path: &Path) -> Result<TextIndex> {
        let (expected, fields) = schema();
        if index.schema() != expected {
            return Err(Error::damaged(&path.join(META_FILE), "the schema of this version", "another schema"));
        }
        let words = TextAnalyzer::builder(SimpleTokenizer::default()).filter(RemoveLongFilter::limit(255));
        index.tokenizers().register(WORDS, words.filter(LowerCaser).build());
        Ok(TextIndex { index, directory, fields, path: path.to_owned() })
    }

    pub(crate) fn manifest(&self) -> Result<Manifest> {
        let meta = self.index.load_metas().map_err(Error::text(&self.path))?;
        Manifest::parse(meta.payload.as_deref(), &self.path.join(META_FILE))
    }

    /// Checks one of the files that tantivy replaces as a whole. Returns its size in bytes.
    pub(crate) fn checked_root(&self, name: &str) -> Result<u64> {
        let content = self.directory.atomic_read(Path::new(name));
        content.map(|content| content.len() as u64).map_err(Error::text(&self.path))
    }

    /// The state of the last commit.
    pub(crate) fn reader(&self) -> Result<TextReader> {
        self.checked(|| {
            let builder = self.index.reader_builder().reload_policy(ReloadPolicy::Manual);
            let reader: tantivy::IndexReader = builder.try_into().map_err(Error::text(&self.path))?;
            Ok(TextReader { text: self.clone(), searcher: reader.searcher() })
        })
    }

    /// Runs a function that calls tantivy. Panics, and results from a truncated file, become errors.
    fn checked<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let done = catch(&self.path, work);
        // A truncated file is the cause of all other errors.
        self.directory.check().and(done)
    }

    /// An error of tantivy's writer. For a thread that failed, tantivy reports no cause: a failed write is
    /// one.
    pub(crate) fn write_error(&self, error: TantivyError) -> Error {
        let in_thread = matches!(error, TantivyError::ErrorInThread(_));
        let cause = in_thread.then(|| self.directory.take_failed_write()).flatten();
        Error::text(&self.path)(cause.map_or(error, TantivyError::from))
    }

    pub(crate) fn id_term(&self, id: &str) -> Term {
        Term::from_field_text(self.fields.id, id)
    }

    pub(crate) fn document(&self, video: &Video, number: VideoNumber) -> Result<TantivyDocument> {
        let f = &self.fields;
        let mut doc = TantivyDocument::default();
        doc.add_text(f.id, &video.id);
        doc.add_u64(f.number, number.0);
        doc.add_text(f.path, &video.path);
        doc.add_text(f.title, &video.title);
        for label in &video.labels {
            doc.add_text(f.label, label);
            doc.add_text(f.label_exact, label);
        }
        doc.add_f64(f.duration, video.duration_ms as f64 / 1e3);
        doc.add_u64(f.size, video.size_bytes);
        each_string(&video.extra, &mut |text| doc.add_text(f.text, text));
        if let OwnedValue::Object(fields) = OwnedValue::from(searchable(&video.extra)) {
            doc.add_object(f.extra, fields.into_iter().collect());
        }
        let record = serde_json::to_string(video).map_err(|error| Error::Argument {
            what: "video",
            expected: "metadata that JSON can hold",
            found: error.to_string(),
        })?;
        // serde_json refuses to read deep nesting that it has written, and such a record would make the index
        // unreadable.
        serde_json::from_str::<Video>(&record).map_err(|error| Error::Argument {
            what: "video",
            expected: "metadata that can be read back from JSON",
            found: error.to_string(),
        })?;
        doc.add_text(f.record, record);
        Ok(doc)
    }
}

/// Calls `visit` with every string in a JSON value.
fn each_string(value: &Value, visit: &mut impl FnMut(&str)) {
    match value {
        Value::String(text) => visit(text),
        Value::Array(values) => values.iter().for_each(|value| each_string(value, visit)),
        Value::Object(fields) => fields.values().for_each(|value| each_string(value, visit)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// The value for the field `extra`. Long strings are only in the field `text`, because tantivy bounds the
/// length of terms.
fn searchable(value: &Value) -> Value {
    match value {
        Value::String(text) if text.len() > 4096 => Value::Null,
        Value::Array(values) => values.iter().map(searchable).collect(),
        Value::Object(fields) => {
            let short = fields.iter().filter(|(name, _)| !name.is_empty() && name.len() <= 255);
            Value::Object(short.map(|(name, value)| (name.clone(), searchable(value))).collect())
        }
        other => other.clone(),
    }
}

/// A snapshot of the text index.
pub(crate) struct TextReader {
    text: TextIndex,
    searcher: tantivy::Searcher,
}

impl TextReader {
    fn error<E: Into<tantivy::TantivyError>>(&self) -> impl FnOnce(E) -> Error {
        Error::text(&self.text.path)
    }

    fn damaged(&self, expected: &str, found: impl ToString) -> Error {
        Error::damaged(&self.text.path, expected, found)
    }

    /// The first live document with this term.
    fn first(&self, term: &Term) -> Result<Option<DocAddress>> {
        for (ordinal, segment) in self.searcher.segment_readers().iter().enumerate() {
            let inverted = segment.inverted_index(term.field()).map_err(self.error())?;
            let postings = inverted.read_postings(term, IndexRecordOption::Basic).map_err(self.error())?;
            let Some(mut postings) = postings else { continue };
            let mut doc = postings.doc();
            while doc != TERMINATED {
                if segment.alive_bitset().is_none_or(|alive| alive.is_alive(doc)) {
                    return Ok(Some(DocAddress::new(ordinal as u32, doc)));
                }
                doc = postings.advance();
            }
        }
        Ok(None)
    }

    /// The video numbers of documents.
    fn numbers(&self, docs: impl IntoIterator<Item = DocAddress>) -> Result<Vec<VideoNumber>> {
        let segments = self.searcher.segment_readers();
        let columns: tantivy::Result<Vec<_>> = segments.iter().map(|s| s.fast_fields().u64("number")).collect();
        let columns = columns.map_err(self.error())?;
        let number = |doc: DocAddress| columns[doc.segment_ord as usize].first(doc.doc_id).map(VideoNumber);
        let numbers: Option<Vec<_>> = docs.into_iter().map(number).collect();
        numbers.ok_or_else(|| self.damaged("a number for every video", "none"))
    }

    /// The number of the live video with this id.
    pub(crate) fn number_of(&self, id: &str) -> Result<Option<VideoNumber>> {
        self.text.checked(|| {
            let doc = self.first(&self.text.id_term(id))?;
            Ok(self.numbers(doc)?.pop())
        })
    }

    fn record(&self, doc: DocAddress) -> Result<Video> {
        let document: TantivyDocument = self.searcher.doc(doc).map_err(self.error())?;
        let record = document.get_first(self.text.fields.record);
        let record = record.and_then(|value| tantivy::schema::Value::as_str(&value));
        let record = record.ok_or_else(|| self.damaged("a stored record", "none"))?;
        serde_json::from_str(record).map_err(|error| self.damaged("a record of a video", error))
    }

    pub(crate) fn video(&self, number: VideoNumber) -> Result<Video> {
        self.text.checked(|| {
            let term = Term::from_field_u64(self.text.fields.number, number.0);
            let doc = self.first(&term)?.ok_or(Error::UnknownVideo { number: number.0 })?;
            self.record(doc)
        })
    }

    /// All live videos, by ascending number.
    pub(crate) fn videos(&self) -> Result<Vec<(VideoNumber, Video)>> {
        self.text.checked(|| self.all_videos())
    }

    fn all_videos(&self) -> Result<Vec<(VideoNumber, Video)>> {
        let mut docs: Vec<_> =
            self.searcher.search(&AllQuery, &DocSetCollector).map_err(self.error())?.into_iter().collect();
        docs.sort_unstable();
        let numbers = self.numbers(docs.iter().copied())?;
        let videos = numbers.into_iter().zip(docs).map(|(number, doc)| Ok((number, self.record(doc)?)));
        let mut videos = videos.collect::<Result<Vec<_>>>()?;
        videos.sort_unstable_by_key(|(number, _)| *number);
        Ok(videos)
    }

    /// The videos that a filter matches; a blank filter matches all.
    pub(crate) fn filter(&self, query: &str) -> Result<VideoSet> {
        let refuse = |reason| Error::Filter { query: query.chars().take(200).collect(), reason };
        let filter = ParsedFilter::parse(if query.trim().is_empty() { "*" } else { query }).map_err(refuse)?;
        let f = &self.text.fields;
        let mut parser = QueryParser::for_index(&self.text.index, vec![f.path, f.title, f.label, f.text]);
        parser.set_conjunction_by_default();
        self.text.checked(|| {
            let docs = filter.documents(&parser, &self.searcher).map_err(refuse)?;
            Ok(self.numbers(docs)?.into_iter().collect())
        })
    }
}
