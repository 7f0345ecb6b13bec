//! Parameters that hold a matrix of every expert (transformers from version 5 on), as the sites that they are made of.

use std::collections::HashMap;

use super::family::ExpertNames;
use super::site::{Site, SiteInfo, SiteKind};

/// A parameter of all experts of a layer, `[E, outputs, inputs]`; or the router's matrix, which is one of its own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FusedParameter {
    /// Path of its module, e.g. `model.layers.0.mlp.experts`.
    pub module: String,
    /// Its name there, e.g. `gate_up_proj`.
    pub name: &'static str,
    /// By expert: the sites whose outputs follow one another in it; all read the same.
    pub parts: Vec<Vec<Site>>,
}

impl FusedParameter {
    /// As PEFT's `target_parameters` and patterns see it.
    pub fn path(&self) -> String {
        format!("{}.{}", self.module, self.name)
    }
}

pub(super) fn of(sites: &[SiteInfo], names: &ExpertNames) -> Vec<FusedParameter> {
    let at: HashMap<&str, Site> = sites.iter().enumerate().map(|(i, site)| (site.path.as_str(), Site(i))).collect();
    let mut all = Vec::new();
    for router in sites.iter().filter(|site| site.kind == SiteKind::Router) {
        let Some(block) = router.path.strip_suffix(names.router) else { continue };
        let parts = vec![vec![at[router.path.as_str()]]];
        all.push(FusedParameter { module: format!("{block}{}", names.fused.router), name: "weight", parts });
        for (name, matrices) in names.fused.parameters {
            let site =
                |expert: usize, matrix: &str| at.get(format!("{block}{}.{expert}.{matrix}", names.module()).as_str()).copied();
            let own = |expert: usize| matrices.iter().filter_map(|matrix| site(expert, matrix)).collect();
            let parts = (0..router.outputs).map(own).collect();
            all.push(FusedParameter { module: format!("{block}{}", names.fused.experts), name, parts });
        }
    }
    all
}

/// The experts of tensor `name`; nothing where experts have tensors of their own.
pub(super) fn of_tensor(all: &[FusedParameter], sites: &[SiteInfo], name: &str) -> Vec<Site> {
    let found = all.iter().find(|parameter| parameter.path() == name);
    let parts = found.into_iter().flat_map(|parameter| parameter.parts.iter().flatten().copied());
    parts.filter(|site| sites[site.0].kind == SiteKind::Expert).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use candle_core::Device;

    use crate::device::Compute;
    use crate::model::Model;

    #[test]
    fn every_matrix_of_an_expert_is_in_one_parameter() {
        for (name, layers, experts, router) in [("mixtral", 3, 4, "block_sparse_moe.gate"), ("qwen3_moe", 2, 5, "mlp.gate")] {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families").join(name);
            let model = Model::open(&dir, Compute::F32, &Device::Cpu).unwrap();
            let (all, sites) = (model.fused_parameters(), model.sites());
            assert_eq!(all.len(), 3 * layers);
            assert_eq!(all[1].path(), "model.layers.0.mlp.experts.gate_up_proj");
            assert_eq!((all[0].path().as_str(), all[2].name), ("model.layers.0.mlp.gate.weight", "down_proj"));
            assert!(sites[all[0].parts[0][0].0].path.ends_with(router));
            for parameter in all.iter().filter(|parameter| parameter.name != "weight") {
                let widths: Vec<usize> =
                    parameter.parts.iter().map(|part| part.iter().map(|s| sites[s.0].outputs).sum()).collect();
                let expected =
                    if parameter.name == "down_proj" { model.config.width } else { 2 * sites[all[1].parts[0][0].0].outputs };
                assert_eq!(widths, vec![expected; experts], "{}", parameter.path());
            }
            let mut covered: Vec<_> = all.iter().flat_map(|parameter| parameter.parts.iter().flatten()).collect();
            covered.sort();
            covered.dedup();
            assert_eq!(covered.len(), layers * (1 + 3 * experts));
        }
        let mixtral = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families/mixtral");
        let mixtral = Model::open(&mixtral, Compute::F32, &Device::Cpu).unwrap();
        assert!(mixtral.sites_of_tensor("model.layers.0.mlp.experts.down_proj").is_empty(), "no tensor of its files");
        let dense = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/models/llama");
        assert!(Model::open(&dense, Compute::F32, &Device::Cpu).unwrap().fused_parameters().is_empty());
    }

    /// As the files have them: inputs first in gpt_oss.
    #[test]
    fn a_tensor_of_all_experts_is_that_of_their_sites() {
        for (name, experts, inputs_first, sizes) in
            [("gpt_oss", "mlp.experts", true, [(16, 16), (8, 16)]), ("gemma4_text-moe", "experts", false, [(18, 12), (6, 18)])]
        {
            let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/golden/families").join(name);
            let model = Model::open(&dir, Compute::F32, &Device::Cpu).unwrap();
            let file = candle_core::safetensors::load(dir.join("model.safetensors"), &Device::Cpu).unwrap();
            assert_eq!(model.fused_parameters().len(), 3 * 3);
            for (parameter, (inputs, outputs)) in ["gate_up_proj", "down_proj"].iter().zip(sizes) {
                let name = format!("model.layers.1.{experts}.{parameter}");
                let (sites, all) = (model.sites_of_tensor(&name), file[&name].to_vec3::<f32>().unwrap());
                assert_eq!((sites.len(), all.len()), (4, 4));
                for (site, of_file) in sites.iter().zip(&all) {
                    let info = &model.sites()[site.0];
                    assert_eq!((info.inputs, info.outputs, info.conv1d), (inputs, outputs, inputs_first), "{}", info.path);
                    assert_eq!(model.site_weight(*site).to_f32(), of_file.concat(), "{}", info.path);
                }
            }
        }
    }
}
