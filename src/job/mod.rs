//! Whole jobs, as the command line runs them, for a server, a GUI or a library user: train, evaluate, merge, estimate,
//! answer.
//!
//! A job takes a recipe (or what it needs of one) and a [`Listener`], tells it what happens as [`JobEvent`]s, and returns
//! what came of it. Refuses to know arguments, terminals and signals: it prints nothing, and it is stopped by the listener's
//! answer alone.
//!
//! | # | room | knows |
//! |---|---|---|
//! | 0 | `events`, `assistants` | what a job tells, and whom; adapters with prompts and sampling of their own, from files |
//! | 1 | `open`, `rows`, `record`, `resume`, `feasible`, `template` | an open base; a recipe's rows; what a run writes; where a run stands; whether rows and base do for what a recipe asks; the template an adapter is spoken to in |
//! | 2 | `evaluate`, `inspect`, `merge`, `speaker` | base beside adapter; what a base is; one model of both; who is ready to talk |
//! | 3 | `prepare`, `answer` | everything before the first step; one answer |
//! | 4 | `train`, `estimate`, `conversation`, `propose` | the main job; what it will take; many answers; a recipe for rows that have none |

mod answer;
mod assistants;
mod conversation;
mod estimate;
mod evaluate;
mod events;
mod feasible;
mod inspect;
mod merge;
mod open;
mod prepare;
mod propose;
mod record;
mod resume;
mod rows;
mod speaker;
mod template;
mod train;

pub use self::answer::{Answer, Question, answer};
pub use self::assistants::{Assistant, Assistants, today, unix_time};
pub use self::conversation::Chat;
pub use self::estimate::{Forecast, estimate};
pub use self::evaluate::{Contestant, Evaluated, Evaluation, SideBySide, before_and_after, evaluate};
pub use self::events::{JobEvent, Listener, Sought};
pub use self::feasible::{NamedQuestions, NamedSet};
pub use self::inspect::{ChatTemplateFact, ModelInspection, TrainingMemory, VerbFact, inspect};
pub use self::merge::{DifferingAnswer, MergeJob, MergeLoss, merge};
pub use self::open::{OpenedBase, adapter, dataset, find, open, recipe};
pub use self::prepare::{Prepared, prepare};
pub use self::propose::{Proposal, ProposalRequest, propose};
pub use self::rows::{PlannedRows, packing, rows};
pub use self::speaker::{Asked, Speaker, speakers};
pub use self::template::{as_trained, saved_recipe};
pub use self::train::{Existing, FreshRun, TrainJob, TrainResult, claim, train};
pub use crate::train::Control;
