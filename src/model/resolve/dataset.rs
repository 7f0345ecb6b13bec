//! Files of a data set on the hub into the Hugging Face cache.
//!
//! Refuses to know: what is inside the files.

use super::{Attempt, Note, Places, hub};
use crate::error::{Error, Result};
use crate::hub::Dataset;

/// Sees to it that the files of `dataset` are on this machine. One file that is there is not asked for again; of a pattern the hub
/// says which files there are, where it can be reached.
///
/// # Errors
/// [`Error::Fetch`] when none of them is on this machine and the hub does not give them.
pub fn fetch_dataset(places: &Places, dataset: &Dataset, say: &mut dyn FnMut(Note)) -> Result<()> {
    let kept = || places.hub_cache.as_deref().map(|cache| dataset.kept(cache)).unwrap_or_default();
    if !dataset.is_pattern() && !kept().is_empty() {
        return Ok(());
    }
    say(Note::Trying(dataset.to_string()));
    let why = match fetch(places, dataset, say) {
        Ok((commit, files)) => {
            let pin = if dataset.revision == commit { String::new() } else { format!("; to keep to it write @{commit}") };
            say(Note::Found(format!("{files} files of {dataset}{pin}")));
            return Ok(());
        }
        Err(why) => why,
    };
    let here = kept().len();
    say(Note::Failed(format!("{dataset}: {why}; {here} files of it are on this machine")));
    if here > 0 {
        return Ok(());
    }
    let help = "let the hub be reached (HF_ENDPOINT, HF_TOKEN for gated data, HF_HUB_OFFLINE unset), correct the address, or name a file \
                on this machine";
    Err(Error::Fetch { what: dataset.to_string(), why, help: help.into() })
}

fn fetch(places: &Places, dataset: &Dataset, say: &mut dyn FnMut(Note)) -> Attempt<(String, usize)> {
    let chosen = |files: &[String]| {
        let chosen: Vec<String> = files.iter().filter(|file| dataset.matches(file)).cloned().collect();
        if chosen.is_empty() { Err(format!("none of its {} files is {}", files.len(), dataset.files)) } else { Ok(chosen) }
    };
    hub::files(places, &dataset.id, hf_hub::RepoType::Dataset, &dataset.revision, &chosen, say)
}
