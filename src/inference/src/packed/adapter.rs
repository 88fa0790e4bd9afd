//! Low-rank adapters beside packed weights.  The rows of one batch may go through different ones: each adapter computes the
//! stretch of rows that belongs to it, by the same products as the weights, so that a row's numbers depend on it alone.

use std::ops::Range;

use ampoule_kernels::{Activations, Form, Format, Packed, Packing, Processor, Product, Target};

use super::weights::FUSED;
use crate::model::{Adapter, Config, LowRank, ModelError};

/// The projections of a layer, in the order of the computation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Projection {
    Query,
    Key,
    Value,
    Output,
    Gate,
    Up,
    Down,
}

/// How many there are.
const PROJECTIONS: usize = 7;

impl Projection {
    const ALL: [(Projection, &str); PROJECTIONS] = [
        (Projection::Query, "self_attn.q_proj"),
        (Projection::Key, "self_attn.k_proj"),
        (Projection::Value, "self_attn.v_proj"),
        (Projection::Output, "self_attn.o_proj"),
        (Projection::Gate, "mlp.gate_proj"),
        (Projection::Up, "mlp.up_proj"),
        (Projection::Down, "mlp.down_proj"),
    ];
}

/// An adapter's matrices in the layout of the products.
#[derive(Debug)]
pub struct PackedAdapter {
    /// `[layer][projection]`.
    modules: Vec<Option<Module>>,
}

#[derive(Debug)]
struct Module {
    /// `[rank, input]`.
    down: Packed,
    /// `[output, rank]`.
    up: Packed,
    scale: f32,
}

/// Consecutive rows of a batch that go through one adapter.
#[derive(Debug, Clone)]
pub(super) struct Segment<'a> {
    pub(super) rows: Range<usize>,
    pub(super) adapter: &'a PackedAdapter,
}

impl PackedAdapter {
    /// Packs the matrices of an adapter of the model that `config` describes.
    ///
    /// # Errors
    /// Only those of the tensor library.
    pub fn new(config: &Config, adapter: &Adapter) -> Result<Self, ModelError> {
        let mut modules = Vec::with_capacity(config.layers.len() * PROJECTIONS);
        for layer in 0..config.layers.len() {
            for (_, name) in Projection::ALL {
                modules.push(module(config, adapter, layer, name)?);
            }
        }
        Ok(Self { modules })
    }

    fn module(&self, layer: usize, projection: Projection) -> Option<&Module> {
        self.modules[layer * PROJECTIONS + projection as usize].as_ref()
    }
}

/// Finds what an adapter adds to a projection, in a module of its own or in its part of a fused one.
fn module(config: &Config, adapter: &Adapter, layer: usize, name: &str) -> Result<Option<Module>, ModelError> {
    let find = |name: &str| adapter.module(&format!("model.layers.{layer}.{name}"));
    let part = FUSED.iter().find_map(|(fused, parts)| {
        let place = parts.iter().position(|part| *part == name)?;
        Some((find(fused)?, place))
    });
    let key = config.key_value_head_count * config.head_dimension;
    let query = config.head_count * config.head_dimension;
    match (find(name), part) {
        (Some(low_rank), _) => Module::new(low_rank, 0..low_rank.up.dim(0)?).map(Some),
        (None, Some((low_rank, place))) => {
            let rows = match (name.starts_with("mlp"), place) {
                (true, place) => place * config.intermediate_size..(place + 1) * config.intermediate_size,
                (false, 0) => 0..query,
                (false, place) => query + (place - 1) * key..query + place * key,
            };
            Module::new(low_rank, rows).map(Some)
        }
        (None, None) => Ok(None),
    }
}

impl Module {
    /// The rows of the up matrix that belong to one projection.
    fn new(low_rank: &LowRank, rows: Range<usize>) -> Result<Module, ModelError> {
        let up = low_rank.up.narrow(0, rows.start, rows.len())?;
        Ok(Module { down: packed(&low_rank.down)?, up: packed(&up)?, scale: low_rank.scale as f32 })
    }
}

fn packed(matrix: &candle_core::Tensor) -> Result<Packed, ModelError> {
    let (outputs, inputs) = matrix.dims2()?;
    let mut packing = Packing::new(Format::F32, outputs, inputs);
    for (output, row) in matrix.to_vec2::<f32>()?.iter().enumerate() {
        let bytes: Vec<u8> = row.iter().flat_map(|number| number.to_le_bytes()).collect();
        packing.put(output, &bytes);
    }
    Ok(packing.finish())
}

/// What adapters need of memory in a pass.
#[derive(Debug, Default)]
pub(super) struct AdapterScratch {
    rows: Activations,
    inner: Vec<f32>,
}

/// Adds to `target`, `[rows, outputs]`, what each segment's adapter makes of its rows of `input`, `[rows, inputs]`.
pub(super) fn adapt(
    processor: &Processor,
    scratch: &mut AdapterScratch,
    segments: &[Segment<'_>],
    (layer, projection): (usize, Projection),
    input: &[f32],
    target: &mut [f32],
) {
    let single = [Form::Single].into_iter().collect();
    for Segment { rows, adapter } in segments {
        let Some(Module { down, up, scale }) = adapter.module(layer, projection) else { continue };
        let (inputs, rank, outputs) = (down.inputs(), down.outputs(), up.outputs());
        let input = &input[rows.start * inputs..rows.end * inputs];
        scratch.rows.fill(processor, single, rows.len(), inputs, |row, into| {
            into.copy_from_slice(&input[row * inputs..][..inputs]);
        });
        scratch.inner.resize(rows.len() * rank, 0.0);
        processor.multiply(&scratch.rows, &mut [Product { weights: down, target: Target::Set(&mut scratch.inner) }]);
        let inner = &scratch.inner;
        scratch.rows.fill(processor, single, rows.len(), rank, |row, into| {
            for (into, value) in into.iter_mut().zip(&inner[row * rank..]) {
                *into = value * scale;
            }
        });
        let target = &mut target[rows.start * outputs..rows.end * outputs];
        processor.multiply(&scratch.rows, &mut [Product { weights: up, target: Target::Add(target) }]);
    }
}
