//! `--machine`: what computes a verb's passes.

use clap::Args;
use clap::builder::{PossibleValuesParser, TypedValueParser};

use crate::device::Choice;
use crate::error::{Error, Result};
use crate::model::{MachineKind, Model};

#[derive(Debug, Clone, Copy, Args)]
pub(super) struct MachineArg {
    /// What computes: kernels over plain buffers (`cpu`), or tensor operations, as on a GPU (`candle`); by default the first on a CPU
    #[arg(long, value_parser = PossibleValuesParser::new(["cpu", "candle"]).map(|name| kind(&name)))]
    machine: Option<MachineKind>,
}

fn kind(name: &str) -> MachineKind {
    if name == "cpu" { MachineKind::Kernels } else { MachineKind::Tensors }
}

impl MachineArg {
    /// Where the verb runs if `wanted` was said: there are kernels for the CPU only.
    ///
    /// # Errors
    /// [`Error::Usage`] when they are to run elsewhere.
    pub(super) fn device(self, wanted: Choice) -> Result<Choice> {
        match (self.machine, wanted) {
            (Some(MachineKind::Kernels), Choice::Auto | Choice::Cpu) => Ok(Choice::Cpu),
            (Some(MachineKind::Kernels), _) => Err(Error::usage(
                "--machine cpu",
                "kernels run on the CPU, and --device names another",
                "give --machine candle, or leave one of the two out",
            )),
            _ => Ok(wanted),
        }
    }

    /// Whether tensor operations were asked for.
    pub(super) fn tensors(self) -> bool {
        self.machine == Some(MachineKind::Tensors)
    }

    /// The model, run by what was asked for.
    pub(super) fn on(self, model: Model) -> Model {
        if self.tensors() { model.in_tensors() } else { model }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_run_on_the_cpu() {
        let device = |machine, wanted| MachineArg { machine }.device(wanted);
        let kernels = Some(kind("cpu"));
        assert_eq!(device(kernels, Choice::Auto).unwrap(), Choice::Cpu);
        assert!(device(kernels, Choice::Cuda(0)).is_err());
        for machine in [None, Some(kind("candle"))] {
            assert_eq!(device(machine, Choice::Cuda(1)).unwrap(), Choice::Cuda(1));
            assert_eq!(device(machine, Choice::Auto).unwrap(), Choice::Auto);
        }
    }
}
