//! Causal attention of a trained pass, with the rotation of queries and keys: from projections to mixed values.
//!
//! Heads that share keys are one group; groups are computed beside each other, and a group's scores, the only part that
//! grows with the square of the length, exist while it is computed. The way back makes them anew.

use candle_core::{CpuStorage, CustomOp3, Layout, Shape, Tensor};
use rayon::prelude::*;

use super::matrix::Matrix;
use super::{lanes, slice, with_values};
use crate::model::rope::RopeTable;

/// How the last dimension of queries, keys and values divides, and what is done with it.
#[derive(Clone)]
pub(in crate::model) struct Heads {
    pub(in crate::model) count: usize,
    pub(in crate::model) key_value_count: usize,
    pub(in crate::model) dimension: usize,
    pub(in crate::model) scale: f32,
    pub(in crate::model) softcap: Option<f32>,
    /// How many tokens each token sees, itself included.
    pub(in crate::model) window: usize,
    pub(in crate::model) rotation: Option<Rotation>,
}

/// Cosine and sine of each position, `[t, rotary / 2]`.
#[derive(Clone)]
pub(in crate::model) struct Rotation {
    half: usize,
    cosine: Vec<f32>,
    sine: Vec<f32>,
}

impl Rotation {
    pub(in crate::model) fn new(table: &RopeTable) -> candle_core::Result<Self> {
        let (cosine, sine) = table.tensors();
        let half = cosine.dim(1)?;
        Ok(Self { half, cosine: cosine.flatten_all()?.to_vec1()?, sine: sine.flatten_all()?.to_vec1()? })
    }
}

/// Queries `[b, t, heads * d]`, keys and values `[b, t, key/value heads * d]`, all contiguous; the result is like the
/// queries.
pub(in crate::model) fn attend(
    query: &Tensor,
    key: &Tensor,
    value: &Tensor,
    heads: Heads,
) -> candle_core::Result<Tensor> {
    query.apply_op3(key, value, Attention { heads })
}

struct Attention {
    heads: Heads,
}

/// One group's share of the work: a batch element and a key/value head.
struct Group<'a> {
    heads: &'a Heads,
    tokens: usize,
    batch: usize,
    key_value_head: usize,
}

#[derive(Clone, Copy, PartialEq)]
enum Turn {
    No,
    Forth,
    Back,
}

impl Attention {
    fn groups(&self, dims: &[usize]) -> Vec<Group<'_>> {
        let (batch_count, tokens) = (dims[0], dims[1]);
        let head_count = self.heads.key_value_count;
        (0..batch_count * head_count)
            .map(|index| Group {
                heads: &self.heads,
                tokens,
                batch: index / head_count,
                key_value_head: index % head_count,
            })
            .collect()
    }

    /// The groups' rows, each `[heads of the group * t, d]`, as `[b, t, heads * d]`.
    fn merge(&self, groups: &[Vec<f32>], tokens: usize, head_count: usize) -> Vec<f32> {
        let (dimension, group_count) = (self.heads.dimension, self.heads.key_value_count);
        let (width, share) = (head_count * dimension, head_count / group_count);
        let mut merged = vec![0.0; groups.iter().map(Vec::len).sum()];
        merged.par_chunks_mut(width * tokens).enumerate().for_each(|(batch, rows)| {
            for (token, row) in rows.chunks_exact_mut(width).enumerate() {
                for (head, target) in row.chunks_exact_mut(dimension).enumerate() {
                    let from = (head % share * tokens + token) * dimension;
                    target.copy_from_slice(&groups[batch * group_count + head / share][from..from + dimension]);
                }
            }
        });
        merged
    }
}

impl Group<'_> {
    /// Some heads, one below the other.
    fn gather(&self, source: &[f32], heads: std::ops::Range<usize>, head_count: usize) -> Vec<f32> {
        let (dimension, width) = (self.heads.dimension, self.heads.dimension * head_count);
        let rows = &source[self.batch * self.tokens * width..(self.batch + 1) * self.tokens * width];
        let mut gathered = Vec::with_capacity(heads.len() * self.tokens * dimension);
        for head in heads {
            for row in rows.chunks_exact(width) {
                gathered.extend_from_slice(&row[head * dimension..(head + 1) * dimension]);
            }
        }
        gathered
    }

    fn query_heads(&self) -> std::ops::Range<usize> {
        let share = self.heads.count / self.heads.key_value_count;
        self.key_value_head * share..(self.key_value_head + 1) * share
    }

    /// Rows `[.. * t, d]`, multiplied and turned by their positions' angles.
    #[inline(always)]
    fn turn(&self, rows: &mut [f32], factor: f32, turn: Turn) {
        for (index, row) in rows.chunks_exact_mut(self.heads.dimension).enumerate() {
            if factor != 1.0 {
                row.iter_mut().for_each(|value| *value *= factor);
            }
            let Some(rotation) = self.heads.rotation.as_ref().filter(|_| turn != Turn::No) else { continue };
            let angles = index % self.tokens * rotation.half..(index % self.tokens + 1) * rotation.half;
            let (cosine, sine) = (&rotation.cosine[angles.clone()], &rotation.sine[angles]);
            let sign = if turn == Turn::Forth { 1.0 } else { -1.0 };
            let (first, second) = row.split_at_mut(rotation.half);
            for (((first, second), cosine), sine) in first.iter_mut().zip(second).zip(cosine).zip(sine) {
                let (x, y, sine) = (*first, *second, sign * sine);
                *first = x * cosine - y * sine;
                *second = y * cosine + x * sine;
            }
        }
    }

    /// A group's heads of one argument as a matrix.
    fn matrix(&self, source: &[f32], of_queries: bool, factor: f32, turn: Turn) -> Matrix {
        let (heads, head_count) = if of_queries {
            (self.query_heads(), self.heads.count)
        } else {
            (self.key_value_head..self.key_value_head + 1, self.heads.key_value_count)
        };
        let mut rows = self.gather(source, heads, head_count);
        lanes::wide(
            #[inline(always)]
            || self.turn(&mut rows, factor, turn),
        );
        Matrix::new(rows.len() / self.heads.dimension, self.heads.dimension, rows)
    }

    /// What a query sees.
    fn seen(&self, row: usize) -> std::ops::Range<usize> {
        let position = row % self.tokens;
        (position + 1).saturating_sub(self.heads.window)..position + 1
    }

    /// Scores become weights; those of keys that a query does not see become zero. Returns the slopes of the softcap.
    #[inline(always)]
    fn weigh(&self, scores: &mut [f32]) -> Vec<f32> {
        let mut slopes = Vec::new();
        if let Some(cap) = self.heads.softcap {
            for score in scores.iter_mut() {
                let tanh = (*score / cap).tanh();
                slopes.push(1.0 - tanh * tanh);
                *score = cap * tanh;
            }
        }
        for (index, row) in scores.chunks_exact_mut(self.tokens).enumerate() {
            let seen = self.seen(index);
            row[..seen.start].fill(0.0);
            row[seen.end..].fill(0.0);
            let row = &mut row[seen];
            let largest = lanes::max(row);
            let share = 1.0 / lanes::exponentiate(row, largest);
            row.iter_mut().for_each(|weight| *weight *= share);
        }
        slopes
    }

    /// The gradient of the weights becomes that of the scores.
    #[inline(always)]
    fn unweigh(&self, changes: &mut [f32], weights: &[f32], slopes: &[f32]) {
        let rows = changes.chunks_exact_mut(self.tokens).zip(weights.chunks_exact(self.tokens));
        for (index, (changes, weights)) in rows.enumerate() {
            let seen = self.seen(index);
            changes[..seen.start].fill(0.0);
            changes[seen.end..].fill(0.0);
            let (changes, weights) = (&mut changes[seen.clone()], &weights[seen]);
            let mean = lanes::dot(changes, weights);
            for (change, weight) in changes.iter_mut().zip(weights) {
                *change = weight * (*change - mean);
            }
        }
        changes.iter_mut().zip(slopes).for_each(|(change, slope)| *change *= slope);
    }

    fn forward(&self, query: &[f32], key: &[f32], value: &[f32]) -> candle_core::Result<Vec<f32>> {
        let query = self.matrix(query, true, self.heads.scale, Turn::Forth);
        let key = self.matrix(key, false, 1.0, Turn::Forth);
        let scores = query.times_transposed(&key)?;
        let weights = scores.changed(|scores| {
            lanes::wide(
                #[inline(always)]
                || self.weigh(scores),
            );
        });
        Ok(weights.times(&self.matrix(value, false, 1.0, Turn::No))?.into_values())
    }

    /// The gradients of queries, keys and values.
    fn backward(&self, [query, key, value, upstream]: [&[f32]; 4]) -> candle_core::Result<[Vec<f32>; 3]> {
        let query = self.matrix(query, true, self.heads.scale, Turn::Forth);
        let key = self.matrix(key, false, 1.0, Turn::Forth);
        let value = self.matrix(value, false, 1.0, Turn::No);
        let upstream = self.matrix(upstream, true, 1.0, Turn::No);
        let mut slopes = Vec::new();
        let scores = query.times_transposed(&key)?;
        let weights = scores.changed(|scores| {
            slopes = lanes::wide(
                #[inline(always)]
                || self.weigh(scores),
            )
        });
        let value_change = weights.transposed_times(&upstream)?.into_values();
        let weight_changes = weights.values()?;
        let score_changes = upstream.times_transposed(&value)?.changed(|changes| {
            lanes::wide(
                #[inline(always)]
                || self.unweigh(changes, weight_changes, &slopes),
            )
        });
        let mut query_change = score_changes.times(&key)?.into_values();
        let mut key_change = score_changes.transposed_times(&query)?.into_values();
        lanes::wide(
            #[inline(always)]
            || self.turn(&mut query_change, self.heads.scale, Turn::Back),
        );
        lanes::wide(
            #[inline(always)]
            || self.turn(&mut key_change, 1.0, Turn::Back),
        );
        Ok([query_change, key_change, value_change])
    }
}

impl CustomOp3 for Attention {
    fn name(&self) -> &'static str {
        "trained-attention"
    }

    fn cpu_fwd(
        &self,
        query: &CpuStorage,
        query_layout: &Layout,
        key: &CpuStorage,
        key_layout: &Layout,
        value: &CpuStorage,
        value_layout: &Layout,
    ) -> candle_core::Result<(CpuStorage, Shape)> {
        let (query, key, value) = (slice(query, query_layout)?, slice(key, key_layout)?, slice(value, value_layout)?);
        let groups = self
            .groups(query_layout.dims())
            .par_iter()
            .map(|group| group.forward(query, key, value))
            .collect::<candle_core::Result<Vec<_>>>()?;
        let mixed = self.merge(&groups, query_layout.dims()[1], self.heads.count);
        Ok((CpuStorage::F32(mixed), query_layout.shape().clone()))
    }

    fn bwd(
        &self,
        query: &Tensor,
        key: &Tensor,
        value: &Tensor,
        _mixed: &Tensor,
        upstream: &Tensor,
    ) -> candle_core::Result<(Option<Tensor>, Option<Tensor>, Option<Tensor>)> {
        let (tokens, groups) = (query.dim(1)?, self.groups(query.dims()));
        let changes = with_values(query, |query| {
            with_values(key, |key| {
                with_values(value, |value| {
                    with_values(upstream, |upstream| {
                        groups.par_iter().map(|group| group.backward([query, key, value, upstream])).collect()
                    })
                })
            })
        });
        let changes: Vec<[Vec<f32>; 3]> = changes?;
        let (mut query_changes, mut key_changes, mut value_changes) = (Vec::new(), Vec::new(), Vec::new());
        for [query_change, key_change, value_change] in changes {
            query_changes.push(query_change);
            key_changes.push(key_change);
            value_changes.push(value_change);
        }
        let merge = |changes: &[Vec<f32>], like: &Tensor, head_count| {
            Tensor::from_vec(self.merge(changes, tokens, head_count), like.shape(), like.device()).map(Some)
        };
        Ok((
            merge(&query_changes, query, self.heads.count)?,
            merge(&key_changes, key, self.heads.key_value_count)?,
            merge(&value_changes, value, self.heads.key_value_count)?,
        ))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use candle_core::{D, Device};
    use candle_nn::{ops, rotary_emb};

    use super::super::testing::{agree, numbers};
    use super::*;

    const TOKENS: usize = 7;

    /// The formula in elementary operations.
    fn plain(query: &Tensor, key: &Tensor, value: &Tensor, heads: &Heads) -> Tensor {
        let split = |input: &Tensor, count: usize| {
            let shape = (input.dim(0).unwrap(), TOKENS, count, heads.dimension);
            input.reshape(shape).unwrap().transpose(1, 2).unwrap().contiguous().unwrap()
        };
        let turned = |input: Tensor| {
            let Some(rotation) = &heads.rotation else { return input };
            let table = |values: &[f32]| Tensor::from_slice(values, (TOKENS, rotation.half), &Device::Cpu).unwrap();
            let rotary = 2 * rotation.half;
            let (cosine, sine) = (table(&rotation.cosine), table(&rotation.sine));
            let first = input.narrow(D::Minus1, 0, rotary).unwrap();
            let first = rotary_emb::rope_slow(&first.contiguous().unwrap(), &cosine, &sine).unwrap();
            let rest = input.narrow(D::Minus1, rotary, heads.dimension - rotary).unwrap();
            Tensor::cat(&[&first, &rest], D::Minus1).unwrap()
        };
        let share = heads.count / heads.key_value_count;
        let repeated = |input: Tensor| {
            let heads: Vec<Tensor> = (0..heads.count).map(|head| input.narrow(1, head / share, 1).unwrap()).collect();
            Tensor::cat(&heads, 1).unwrap()
        };
        let query = turned(split(query, heads.count));
        let key = repeated(turned(split(key, heads.key_value_count)));
        let value = repeated(split(value, heads.key_value_count));
        let mut scores = (query.matmul(&key.t().unwrap()).unwrap() * f64::from(heads.scale)).unwrap();
        if let Some(cap) = heads.softcap.map(f64::from) {
            scores = ((scores / cap).unwrap().tanh().unwrap() * cap).unwrap();
        }
        let mask: Vec<f32> = (0..TOKENS * TOKENS)
            .map(|index| (index / TOKENS, index % TOKENS))
            .map(|(row, column)| column <= row && row - column < heads.window)
            .map(|seen| if seen { 0.0 } else { f32::NEG_INFINITY })
            .collect();
        let mask = Tensor::from_vec(mask, (TOKENS, TOKENS), &Device::Cpu).unwrap();
        let weights = ops::softmax(&scores.broadcast_add(&mask).unwrap(), D::Minus1).unwrap();
        let mixed = weights.matmul(&value).unwrap().transpose(1, 2).unwrap();
        mixed.reshape((mixed.dim(0).unwrap(), TOKENS, heads.count * heads.dimension)).unwrap()
    }

    #[test]
    fn equals_the_plain_formula() {
        let angles = |half: usize| (0..TOKENS * half).map(|index| 0.37 * index as f32);
        let rotation = |half| Rotation {
            half,
            cosine: angles(half).map(f32::cos).collect(),
            sine: angles(half).map(f32::sin).collect(),
        };
        let heads = Heads {
            count: 6,
            key_value_count: 2,
            dimension: 10,
            scale: 0.4,
            softcap: None,
            window: usize::MAX,
            rotation: Some(rotation(5)),
        };
        let kinds = [
            heads.clone(),
            Heads { key_value_count: 6, rotation: None, ..heads.clone() },
            Heads { window: 3, softcap: Some(1.5), rotation: Some(rotation(3)), ..heads },
        ];
        for heads in kinds {
            let (wide, narrow) = (heads.count * heads.dimension, heads.key_value_count * heads.dimension);
            let query = numbers(&[3, TOKENS, wide], 1);
            let (key, value) = (numbers(&[3, TOKENS, narrow], 2), numbers(&[3, TOKENS, narrow], 3));
            let own = attend(&query, &key, &value, heads.clone()).unwrap();
            agree(&own, &plain(&query, &key, &value, &heads), &[&query, &key, &value]);
        }
    }
}
