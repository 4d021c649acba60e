//! The orchestrator: from a kernel's source and a series to a verdict.
//!
//! The stages, in the order in which data flows through them; each is one
//! public verb that takes what the stage before it returned:
//!
//! [`plan`] → [`source`] → [`series`] → [`config`] → [`build`] → [`image`] →
//! [`boot`] → [`run`] → [`collect`] → [`judge`] → [`report`]

pub mod plan;
pub mod source;
pub mod series;
pub mod config;
pub mod build;
pub mod image;
pub mod boot;
pub mod run;
pub mod collect;
pub mod judge;
pub mod report;

// What the stages stand on.
pub mod abi;
mod ask;
pub mod baseline;
pub mod bisect;
pub mod cache;
pub mod callers;
mod chunks;
pub mod compare;
pub mod console;
pub mod context;
mod dump;
pub mod embedded;
pub mod events;
pub mod flow;
pub mod frames;
pub mod git;
mod html;
pub mod interrupt;
mod kbuild;
pub mod keeper;
pub mod known;
pub mod layout;
pub mod machine;
mod markdown;
pub mod packages;
pub mod proc;
pub mod progress;
pub mod results;
pub mod rundir;
pub mod runner;
pub mod snapshot;
pub mod stop;
pub mod store;
pub mod symbols;
pub mod terminal;
pub mod trace;
pub mod vm;
pub mod words;

// What a person types.
pub mod cli;
pub mod commands;
