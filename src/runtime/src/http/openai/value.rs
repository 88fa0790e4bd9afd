//! JSON values as clients really send them, with errors that a client can read.
//!
//! serde's own messages name Rust types (`expected u32`); these say what is wanted in JSON's words.  Integers are kept
//! as `i128`, so that -1, 2^63 and 2^64 arrive here and are refused by a range, with the field's name (THREATS C30).

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::{Deserialize, Deserializer};

/// A JSON object read into `T`.  Derived structs would take an array for an object; this does not.
#[derive(Debug)]
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Object<T>, D::Error> {
        struct ObjectVisitor<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

/// A whole number of any size that JSON can write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Integer(pub(crate) i128);

impl<'de> Deserialize<'de> for Integer {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Integer, D::Error> {
        struct IntegerVisitor;
        impl Visitor<'_> for IntegerVisitor {
            type Value = Integer;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an integer")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Integer, E> {
                Ok(Integer(value.into()))
            }

            // The parser hands integers beyond 64 bits over as floats; those stay integers, to fail by their range.
            fn visit_f64<E: Error>(self, value: f64) -> Result<Integer, E> {
                if value.fract() == 0.0 && value.abs() >= 2f64.powi(63) {
                    return Ok(Integer(value as i128));
                }
                Err(E::invalid_type(Unexpected::Float(value), &self))
            }
        }
        deserializer.deserialize_any(IntegerVisitor)
    }
}

/// A finite number.  JSON has no NaN, and the parser refuses numbers beyond the range of a double.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Number(pub(crate) f64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct NumberVisitor;
        impl Visitor<'_> for NumberVisitor {
            type Value = Number;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number")
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<Number, E> {
                Ok(Number(value as f64))
            }

            fn visit_f64<E: Error>(self, value: f64) -> Result<Number, E> {
                Ok(Number(value))
            }
        }
        deserializer.deserialize_any(NumberVisitor)
    }
}

/// One token's number in the vocabulary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TokenId(pub(crate) u32);

impl<'de> Deserialize<'de> for TokenId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TokenId, D::Error> {
        let Integer(value) = Integer::deserialize(deserializer)?;
        u32::try_from(value).map(TokenId).map_err(|_| D::Error::custom(format!("{value} is no token number")))
    }
}

/// A value of a field that is known and not supported.  Any value but null is kept as a refusal.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Refused;

impl<'de> Deserialize<'de> for Refused {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Refused, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Refused)
    }
}

/// A value of a field that changes nothing here, such as `user`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ignored;

impl<'de> Deserialize<'de> for Ignored {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Ignored, D::Error> {
        IgnoredAny::deserialize(deserializer).map(|_| Ignored)
    }
}

/// `"stop": "a"` or `"stop": ["a", "b"]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OneOrMany(pub(crate) Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<OneOrMany, D::Error> {
        struct OneOrManyVisitor;
        impl<'de> Visitor<'de> for OneOrManyVisitor {
            type Value = OneOrMany;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string or an array of strings")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![value.to_owned()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<OneOrMany, A::Error> {
                let mut all = Vec::new();
                while let Some(item) = items.next_element()? {
                    all.push(item);
                }
                Ok(OneOrMany(all))
            }
        }
        deserializer.deserialize_any(OneOrManyVisitor)
    }
}

/// What is to be completed or embedded: texts or token numbers, one or several.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Inputs {
    /// `"..."` or `["...", ...]`
    Texts(Vec<String>),
    /// `[1, 2]` or `[[1, 2], ...]`
    Tokens(Vec<Vec<u32>>),
}

/// The most texts or token lists in one request.  Refused while they are read: half a million lists of one token are
/// 2 MiB as JSON, and ten times that in memory.
const MAX_INPUTS: usize = 2048;

impl Inputs {
    pub(crate) fn len(&self) -> usize {
        match self {
            Inputs::Texts(texts) => texts.len(),
            Inputs::Tokens(lists) => lists.len(),
        }
    }
}

impl<'de> Deserialize<'de> for Inputs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Inputs, D::Error> {
        struct InputsVisitor;
        impl<'de> Visitor<'de> for InputsVisitor {
            type Value = Inputs;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, an array of strings, an array of token numbers, or an array of such arrays")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Inputs, E> {
                Ok(Inputs::Texts(vec![value.to_owned()]))
            }

            // The first item decides the kind, and the rest is read straight into that kind: a body of one million
            // numbers costs four million bytes, not one tagged value each.
            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Inputs, A::Error> {
                Ok(match items.next_element::<FirstInput>()? {
                    None => Inputs::Texts(Vec::new()),
                    Some(FirstInput::Text(first)) => {
                        let mut texts = vec![first];
                        while let Some(text) = items.next_element()? {
                            room_for_one_more(texts.len())?;
                            texts.push(text);
                        }
                        Inputs::Texts(texts)
                    }
                    Some(FirstInput::Token(TokenId(first))) => {
                        let mut tokens = vec![first];
                        while let Some(TokenId(token)) = items.next_element()? {
                            tokens.push(token);
                        }
                        Inputs::Tokens(vec![tokens])
                    }
                    Some(FirstInput::Tokens(first)) => {
                        let mut lists = vec![first];
                        while let Some(TokenList(list)) = items.next_element()? {
                            room_for_one_more(lists.len())?;
                            lists.push(list);
                        }
                        Inputs::Tokens(lists)
                    }
                })
            }
        }
        deserializer.deserialize_any(InputsVisitor)
    }
}

fn room_for_one_more<E: Error>(found: usize) -> Result<(), E> {
    if found < MAX_INPUTS { Ok(()) } else { Err(E::custom(format!("at most {MAX_INPUTS} inputs are possible"))) }
}

enum FirstInput {
    Text(String),
    Token(TokenId),
    Tokens(Vec<u32>),
}

impl<'de> Deserialize<'de> for FirstInput {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<FirstInput, D::Error> {
        struct FirstVisitor;
        impl<'de> Visitor<'de> for FirstVisitor {
            type Value = FirstInput;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string, a token number or an array of token numbers")
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<FirstInput, E> {
                Ok(FirstInput::Text(value.to_owned()))
            }

            fn visit_i64<E: Error>(self, value: i64) -> Result<FirstInput, E> {
                Err(E::custom(format!("{value} is no token number")))
            }

            fn visit_u64<E: Error>(self, value: u64) -> Result<FirstInput, E> {
                let token = u32::try_from(value).map_err(|_| E::custom(format!("{value} is no token number")))?;
                Ok(FirstInput::Token(TokenId(token)))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<FirstInput, A::Error> {
                read_tokens(items).map(FirstInput::Tokens)
            }
        }
        deserializer.deserialize_any(FirstVisitor)
    }
}

struct TokenList(Vec<u32>);

impl<'de> Deserialize<'de> for TokenList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<TokenList, D::Error> {
        struct ListVisitor;
        impl<'de> Visitor<'de> for ListVisitor {
            type Value = TokenList;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of token numbers")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<TokenList, A::Error> {
                read_tokens(items).map(TokenList)
            }
        }
        deserializer.deserialize_seq(ListVisitor)
    }
}

fn read_tokens<'de, A: SeqAccess<'de>>(mut items: A) -> Result<Vec<u32>, A::Error> {
    let mut tokens = Vec::new();
    while let Some(TokenId(token)) = items.next_element()? {
        tokens.push(token);
    }
    Ok(tokens)
}

/// A truth value or a text, as template options are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Scalar(pub(crate) serde_json::Value);

impl<'de> Deserialize<'de> for Scalar {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Scalar, D::Error> {
        struct ScalarVisitor;
        impl Visitor<'_> for ScalarVisitor {
            type Value = Scalar;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("true, false or a string")
            }

            fn visit_bool<E: Error>(self, value: bool) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }

            fn visit_str<E: Error>(self, value: &str) -> Result<Scalar, E> {
                Ok(Scalar(value.into()))
            }
        }
        deserializer.deserialize_any(ScalarVisitor)
    }
}

/// `"logit_bias": {"1234": -100}`; the keys are checked where the vocabulary is known.
pub(crate) type LogitBias = BTreeMap<String, Number>;
