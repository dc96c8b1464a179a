//! The scenarios, in the order in which they run.

mod balancer;
mod choices;
mod custom;
mod custom_resources;
mod faults;
mod guarded;
mod helm;
mod hostile;
mod ingress;
mod input;
mod inside;
mod isolation;
mod kubeconfig;
mod kubectl_objects;
mod kubectl_streams;
mod lifecycle;
mod mapping;
mod nodes;
mod operator;
mod pages;
mod policies;
mod removal;
mod rotation;
mod settings;
mod storage;
mod ten;
mod tenant;
mod throwaway;
mod tutorial;
mod walkthrough;

use crate::world::{Result, World};

/// A scenario: its name and what it does.
pub type Scenario = (&'static str, fn(&World) -> Result);

/// All of them.
pub const ALL: &[Scenario] = &[
    ("walkthrough", walkthrough::first_walkthrough),
    ("inside", inside::pods_find_what_is_inside),
    ("kubectl-streams", kubectl_streams::streams),
    ("kubectl-objects", kubectl_objects::objects),
    ("helm", helm::release),
    ("isolation", isolation::neighbours),
    ("hostile", hostile::attempts),
    ("network-policies", policies::enforced),
    ("tenant", tenant::owner_of_one_namespace),
    ("custom", custom::resources),
    ("custom-resources", custom_resources::both_ways),
    ("input", input::wrong_input),
    ("kubeconfig", kubeconfig::entries_and_commands),
    ("removal", removal::deletes_cut_short),
    ("settings", settings::changed_in_place),
    ("rotation", rotation::certificates),
    ("choices", choices::beyond_the_usual),
    ("guarded", guarded::by_the_host),
    ("pages", pages::tell_the_truth),
    ("load-balancer", balancer::addresses),
    ("tutorial-ingress", ingress::reused_controller),
    ("tutorial-storage", storage::reused_class),
    ("tutorial-nodes", tutorial::specific_nodes),
    ("tutorial-services", mapping::services),
    ("operator", operator::with_webhook),
    ("pause", lifecycle::pause_and_resume),
    ("throw-away", throwaway::few),
    ("ten", ten::at_once),
    ("faults", faults::killed_processes),
    // Last, since it makes another host in place of that of the others.
    ("nodes", nodes::several),
];

/// Those that run only when they are named: they take minutes.
pub const BY_NAME: &[Scenario] = &[
    ("fifty", throwaway::many),
    ("siege", faults::siege::scenarios_under_faults),
];
