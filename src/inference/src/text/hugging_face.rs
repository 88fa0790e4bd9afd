//! Reads a tokenizer as Hugging Face models carry it: tokenizer.json, and the files beside it that name special tokens.
//!
//! As in Transformers, tokenizer.json alone decides what is put around a text (`add_bos_token` in the other files is
//! ignored beside it); the other files name the special tokens and may add some.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::AddedToken;

use super::{TextError, Tokenizer, tokenizer::SpecialRoles};

/// The bytes of a model's text files, as they lie in the bundle. All but the first may be absent.
#[derive(Debug, Clone, Copy, Default)]
pub struct HuggingFaceFiles<'a> {
    /// `tokenizer.json`
    pub tokenizer: &'a [u8],
    /// `tokenizer_config.json`
    pub tokenizer_config: Option<&'a [u8]>,
    /// `special_tokens_map.json`
    pub special_tokens_map: Option<&'a [u8]>,
    /// `generation_config.json`
    pub generation_config: Option<&'a [u8]>,
    /// `config.json`
    pub config: Option<&'a [u8]>,
    /// `chat_template.jinja`
    pub chat_template: Option<&'a [u8]>,
}

/// What the files beside tokenizer.json say.
pub(super) struct SideFiles {
    /// Template variables such as `bos_token`, by name.
    pub(super) named: BTreeMap<String, String>,
    /// The chat templates by name; the usual one is `default`.
    pub(super) templates: BTreeMap<String, String>,
    added: BTreeMap<u32, AddedToken>,
    end: Vec<u32>,
    beginning: Option<u32>,
    padding: Option<u32>,
}

impl Tokenizer {
    /// Reads a tokenizer from tokenizer.json and the files beside it.
    ///
    /// # Errors
    /// [`TextError::File`] if a file cannot be understood, [`TextError::UnsupportedDecoder`] if the tokens cannot be
    /// decoded one by one.
    pub fn from_hugging_face(files: &HuggingFaceFiles<'_>) -> Result<Self, TextError> {
        from_side_files(files.tokenizer, &SideFiles::read(files)?)
    }
}

#[derive(Deserialize)]
struct DecoderSection {
    decoder: Option<Value>,
}

pub(super) fn from_side_files(tokenizer: &[u8], side: &SideFiles) -> Result<Tokenizer, TextError> {
    const FILE: &str = "tokenizer.json";
    let mut library = tokenizers::Tokenizer::from_bytes(tokenizer)
        .map_err(|error| TextError::File { file: FILE, reason: error.to_string() })?;
    let section: DecoderSection = parse(FILE, tokenizer)?;
    let known = library.get_added_tokens_decoder();
    let mut added: Vec<AddedToken> =
        side.added.iter().filter(|(id, token)| known.get(id) != Some(token)).map(|(_, token)| token.clone()).collect();
    for spelling in side.named.values() {
        let spelled = |token: &AddedToken| token.content == *spelling;
        if !known.values().any(spelled) && !added.iter().any(spelled) {
            added.push(AddedToken::from(spelling.as_str(), true));
        }
    }
    library.add_tokens(added).map_err(|error| TextError::File { file: FILE, reason: error.to_string() })?;

    let highest = library.get_vocab(true).into_values().max().map_or(0, |id| u64::from(id) + 1);
    // A vocabulary with a gap of millions is a defect, and its table would only waste memory.
    const MOST_TOKENS: u64 = 16 << 20;
    if highest > MOST_TOKENS {
        let reason = format!("its highest token id is {}, above the {MOST_TOKENS} that are supported", highest - 1);
        return Err(TextError::File { file: FILE, reason });
    }
    let vocabulary = (0..highest).map(|id| library.id_to_token(u32::try_from(id).ok()?)).collect();
    let named = |name: &str| side.named.get(name).and_then(|spelling| library.token_to_id(spelling));
    let mut end = side.end.clone();
    end.extend(named("eos_token"));
    end.sort_unstable();
    end.dedup();
    let roles = SpecialRoles {
        beginning: named("bos_token").or(side.beginning),
        end,
        padding: named("pad_token").or(side.padding),
    };
    Tokenizer::assemble(library, None, vocabulary, section.decoder.as_ref(), roles)
}

/// The special tokens that every tokenizer may name, in Transformers' order.
const NAMES: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

impl SideFiles {
    pub(super) fn read(files: &HuggingFaceFiles<'_>) -> Result<Self, TextError> {
        let tokenizer_config = object("tokenizer_config.json", files.tokenizer_config)?;
        let special_tokens_map = object("special_tokens_map.json", files.special_tokens_map)?;
        let generation_config = object("generation_config.json", files.generation_config)?;
        let config = object("config.json", files.config)?;

        let mut named = BTreeMap::new();
        for source in [&special_tokens_map, &tokenizer_config] {
            for (name, value) in source {
                if (NAMES.contains(&name.as_str()) || name.ends_with("_token"))
                    && let Some(spelling) = value.as_str().or_else(|| value.get("content")?.as_str())
                {
                    named.insert(name.clone(), spelling.to_owned());
                }
            }
        }
        let mut added = BTreeMap::new();
        if let Some(Value::Object(tokens)) = tokenizer_config.get("added_tokens_decoder") {
            for (id, token) in tokens {
                let malformed = |reason: String| TextError::File {
                    file: "tokenizer_config.json",
                    reason: format!("added_tokens_decoder: {reason}"),
                };
                let id: u32 = id.parse().map_err(|_| malformed(format!("`{id}` is no token id")))?;
                let token = AddedToken::deserialize(token).map_err(|error| malformed(error.to_string()))?;
                added.insert(id, token);
            }
        }
        let ids = |name: &str| {
            [&generation_config, &config].into_iter().map(|file| token_ids(file.get(name))).find(|ids| !ids.is_empty())
        };
        let first = |name: &str| ids(name).and_then(|ids| ids.first().copied());
        Ok(Self {
            named,
            templates: templates(tokenizer_config.get("chat_template"), files.chat_template)?,
            added,
            end: ids("eos_token_id").unwrap_or_default(),
            beginning: first("bos_token_id"),
            padding: first("pad_token_id"),
        })
    }
}

/// A file of its own takes priority over the entry in tokenizer_config.json, which is a text or a list of named texts.
fn templates(entry: Option<&Value>, file: Option<&[u8]>) -> Result<BTreeMap<String, String>, TextError> {
    if let Some(bytes) = file {
        let text = std::str::from_utf8(bytes)
            .map_err(|error| TextError::File { file: "chat_template.jinja", reason: error.to_string() })?;
        return Ok([("default".to_owned(), text.to_owned())].into());
    }
    Ok(match entry {
        Some(Value::String(text)) => [("default".to_owned(), text.clone())].into(),
        Some(Value::Array(list)) => list
            .iter()
            .filter_map(|item| {
                Some((item.get("name")?.as_str()?.to_owned(), item.get("template")?.as_str()?.to_owned()))
            })
            .collect(),
        _ => BTreeMap::new(),
    })
}

fn token_ids(value: Option<&Value>) -> Vec<u32> {
    let id = |value: &Value| value.as_u64().and_then(|id| u32::try_from(id).ok());
    match value {
        Some(Value::Array(list)) => list.iter().filter_map(id).collect(),
        Some(value) => id(value).into_iter().collect(),
        None => Vec::new(),
    }
}

fn object(file: &'static str, bytes: Option<&[u8]>) -> Result<serde_json::Map<String, Value>, TextError> {
    bytes.map_or_else(|| Ok(serde_json::Map::new()), |bytes| parse(file, bytes))
}

fn parse<'a, T: Deserialize<'a>>(file: &'static str, bytes: &'a [u8]) -> Result<T, TextError> {
    serde_json::from_slice(bytes).map_err(|error| TextError::File { file, reason: error.to_string() })
}
