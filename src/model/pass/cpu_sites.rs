//! What the CPU does at sites: products, pairs, magnitudes and biases, there and back.

use super::super::layers::SiteLinear;
use super::cpu::Cpu;
use super::machine::{Given, Sites, Unscaled};
use super::prepared::PreparedAdapter;
use super::workspace::{Buffer, Pooled};
use crate::kernels::dropout::TokenMask;
use crate::kernels::engine::{Back, Dest, Layer};

impl<T: Pooled> Cpu<'_, T> {
    pub(super) fn layer<'a>(given: &'a Given, adapter: &'a PreparedAdapter, site: &'a SiteLinear) -> Layer<'a> {
        let drop = adapter.masks[site.site.0].map(|mask| TokenMask { mask, rows: given.rows });
        Layer { matrix: &site.linear.matrix, side: site.linear.side, pair: adapter.pairs[site.site.0].as_ref(), drop }
    }

    /// `x` through several sites, each to its own place, without biases.
    pub(super) fn multiply(
        &mut self,
        given: &Given,
        sites: &[&SiteLinear],
        x: &[T],
        dests: Vec<Dest<T>>,
        unscaled: &mut Unscaled<Self>,
    ) {
        let [(_, adapter)] = given.acting else { return self.multiply_mixed(given, sites, x, dests) };
        let layers: Vec<Layer> = sites.iter().map(|s| Self::layer(given, adapter, s)).collect();
        if sites.iter().all(|s| adapter.columns[s.site.0].is_none()) {
            return T::forward(given.phase, x, &layers, dests);
        }
        for ((site, layer), dest) in sites.iter().zip(layers).zip(dests) {
            match &adapter.columns[site.site.0] {
                None => T::forward(given.phase, x, &[layer], vec![dest]),
                Some(columns) => {
                    let mut z = self.take::<T>(given, site.linear.outputs());
                    T::forward(given.phase, x, &[layer], vec![Dest::Store(&mut z)]);
                    columns.apply(&z, dest);
                    unscaled.push((site.site, z));
                }
            }
        }
    }

    /// As [`Cpu::multiply`], with several adapters, without a way back.
    fn multiply_mixed(&mut self, given: &Given, sites: &[&SiteLinear], x: &[T], dests: Vec<Dest<T>>) {
        for (site, mut dest) in sites.iter().zip(dests) {
            if given.acting.iter().all(|(_, adapter)| adapter.columns[site.site.0].is_none()) {
                let parts = given.acting.iter().map(|(rows, adapter)| (rows.clone(), Self::layer(given, adapter, site)));
                T::forward_mixed(given.phase, x, &parts.collect::<Vec<_>>(), dest);
                continue;
            }
            let (inputs, outputs) = (site.linear.inputs(), site.linear.outputs());
            for (rows, adapter) in given.acting {
                let x = &x[rows.start * inputs..rows.end * inputs];
                let to = dest.part(rows.start * outputs..rows.end * outputs);
                let layer = Self::layer(given, adapter, site);
                match &adapter.columns[site.site.0] {
                    None => T::forward(given.phase, x, &[layer], vec![to]),
                    Some(columns) => {
                        let mut z = self.scratch.take_part::<T>(rows.len(), outputs);
                        T::forward(given.phase, x, &[layer], vec![Dest::Store(&mut z)]);
                        columns.apply(&z, to);
                        self.scratch.give(z);
                    }
                }
            }
        }
    }

    /// The gradients of sites with a common input `x`, and of that input.
    pub(super) fn back(
        &mut self,
        given: &Given,
        sites: &Sites<Self>,
        x: Option<&Buffer<T>>,
        unscaled: &Unscaled<Self>,
        dx: Option<Dest<T>>,
    ) {
        let adapter = given.only();
        let x: &[T] = x.map_or(&[], |x| x);
        // Where outputs are scaled, what goes back is the gradient before the factors.
        let mut inner: Vec<Option<Buffer<T>>> = Vec::new();
        for (s, dy) in sites {
            let scaled = adapter.columns[s.site.0].as_ref().zip(unscaled.iter().find(|(site, _)| *site == s.site));
            inner.push(scaled.map(|(columns, (_, z))| {
                if let Some(sum) = &mut self.sums.sites[s.site.0].magnitude {
                    columns.add_gradient(dy, z, sum);
                }
                let mut dz = self.take::<T>(given, s.linear.outputs());
                columns.apply(dy, Dest::Store(&mut dz));
                dz
            }));
        }
        let mut taken: Vec<_> = sites.iter().map(|(s, _)| self.sums.sites[s.site.0].pair.take()).collect();
        let layers = sites.iter().zip(&mut taken).zip(&inner).map(|(((s, dy), g), inner)| {
            let dy: &[T] = inner.as_deref().unwrap_or(dy);
            Back { layer: Self::layer(given, adapter, s), x, dy, gradient: g.as_mut() }
        });
        T::backward(layers.collect(), dx);
        for ((s, _), pair) in sites.iter().zip(taken) {
            self.sums.sites[s.site.0].pair = pair;
        }
        inner.into_iter().flatten().for_each(|dz| self.scratch.give(dz));
    }
}
