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

/// A scenario.
pub struct Scenario {
    /// Its name, for the command line and the report.
    pub name: &'static str,
    /// Whether it can run while others do: it touches nothing but what it made,
    /// and judges by nothing else.
    pub beside: bool,
    /// What it does.
    pub run: fn(&World) -> Result,
}

const fn alone(name: &'static str, run: fn(&World) -> Result) -> Scenario {
    Scenario {
        name,
        beside: false,
        run,
    }
}

const fn beside(name: &'static str, run: fn(&World) -> Result) -> Scenario {
    Scenario {
        name,
        beside: true,
        run,
    }
}

/// All of them. Of those that run beside each other the longest come first, so
/// that none is waited for at the end.
pub const ALL: &[Scenario] = &[
    alone("walkthrough", walkthrough::first_walkthrough),
    beside("rotation", rotation::certificates),
    beside("guarded", guarded::by_the_host),
    beside("inside", inside::pods_find_what_is_inside),
    beside("kubectl-streams", kubectl_streams::streams),
    beside("kubectl-objects", kubectl_objects::objects),
    beside("helm", helm::release),
    beside("isolation", isolation::neighbours),
    beside("hostile", hostile::attempts),
    beside("custom", custom::resources),
    beside("custom-resources", custom_resources::both_ways),
    beside("kubeconfig", kubeconfig::entries_and_commands),
    beside("choices", choices::beyond_the_usual),
    beside("tutorial-services", mapping::services),
    beside("operator", operator::with_webhook),
    beside("pause", lifecycle::pause_and_resume),
    alone("network-policies", policies::enforced),
    alone("tenant", tenant::owner_of_one_namespace),
    alone("input", input::wrong_input),
    alone("removal", removal::deletes_cut_short),
    alone("settings", settings::changed_in_place),
    alone("pages", pages::tell_the_truth),
    alone("load-balancer", balancer::addresses),
    alone("tutorial-ingress", ingress::reused_controller),
    alone("tutorial-storage", storage::reused_class),
    alone("tutorial-nodes", tutorial::specific_nodes),
    alone("throw-away", throwaway::few),
    alone("ten", ten::at_once),
    alone("faults", faults::killed_processes),
    // Last, since they make another host in place of that of the others.
    alone("nodes", nodes::several),
    alone("siege", faults::siege::scenarios_under_faults),
];

/// Those that run only when they are named: they show what a smaller one shows.
pub const BY_NAME: &[Scenario] = &[alone("fifty", throwaway::many)];
