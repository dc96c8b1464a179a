//! A custom resource definition in a virtual cluster, with all that
//! definitions can have.

use crate::stream::Stream;
use crate::virtual_cluster::VirtualCluster;
use crate::world::{Result, World, ensure, has};

const DEFINITION: &str = r#"
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: boats.sea.example.com}
spec:
  group: sea.example.com
  scope: Namespaced
  names: {plural: boats, singular: boat, kind: Boat, shortNames: [bt], categories: [fleet]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale:
        specReplicasPath: .spec.oars
        statusReplicasPath: .status.oars
        labelSelectorPath: .status.selector
    additionalPrinterColumns:
    - {name: Hull, type: string, jsonPath: .spec.hull}
    - {name: Oars, type: integer, jsonPath: .spec.oars}
    - {name: Sails, type: string, jsonPath: .spec.sails, priority: 1}
    - {name: Age, type: date, jsonPath: .metadata.creationTimestamp}
    schema:
      openAPIV3Schema:
        type: object
        required: [spec]
        properties:
          spec:
            type: object
            required: [hull]
            properties:
              hull: {type: string, enum: [willow, hide], description: What it is made of.}
              oars: {type: integer, minimum: 0, maximum: 4, default: 1}
              sails: {type: string, maxLength: 5, pattern: "^[a-z]+$"}
              crew:
                type: array
                maxItems: 3
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items:
                  type: object
                  required: [name]
                  properties:
                    name: {type: string}
                    role: {type: string, default: rower}
          status:
            type: object
            properties:
              oars: {type: integer}
              selector: {type: string}
              afloat: {type: boolean}
"#;

const BOAT: &str = r#"
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: curragh}
spec:
  hull: hide
  sails: brown
  crew: [{name: ann}]
"#;

const WRONG: &str = r#"
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: wrong}
spec:
  hull: steel
  oars: 9
  sails: enormous
"#;

const MATE: &str = r#"
apiVersion: sea.example.com/v1
kind: Boat
metadata: {name: curragh}
spec:
  crew: [{name: bob, role: bailer}]
"#;

/// A definition's life and that of its instances.
pub fn resources(world: &World) -> Result {
    let cluster = VirtualCluster::create(world, "custom", "e2e-custom", "")?;
    let inside = &cluster.inside;
    has(
        &inside.apply(DEFINITION)?,
        "customresourcedefinition.apiextensions.k8s.io/boats.sea.example.com created",
    )?;
    inside.kubectl("wait crd boats.sea.example.com --for condition=Established --timeout 60s")?;
    let discovered = inside.kubectl("api-resources --api-group sea.example.com --no-headers")?;
    let words: Vec<&str> = discovered.split_whitespace().collect();
    ensure(
        words == ["boats", "bt", "sea.example.com/v1", "true", "Boat"],
        &discovered,
    )?;
    has(
        &inside.kubectl("explain boat.spec.hull")?,
        "What it is made of.",
    )?;

    let mut command = inside.command("kubectl");
    command.args(["get", "boats", "-w", "--output-watch-events"]);
    let mut watch = Stream::start(command)?;
    let boat = inside.file("boat.yaml", BOAT)?;
    has(
        &inside.kubectl(&format!("create -f {}", boat.display()))?,
        "boat.sea.example.com/curragh created",
    )?;
    has(&watch.wait_for("ADDED")?, "curragh")?;
    values(inside)?;
    mistakes(inside)?;
    columns(inside)?;
    subresources(inside)?;
    has(&watch.wait_for("MODIFIED")?, "curragh")?;
    server_side_apply(inside)?;
    migrate(inside)?;

    // Instances go with their definition.
    inside.kubectl("create namespace harbour")?;
    inside.kubectl(&format!("create -n harbour -f {}", boat.display()))?;
    inside.kubectl("delete crd boats.sea.example.com --timeout 60s")?;
    has(&watch.wait_for("DELETED")?, "curragh")?;
    let gone = inside.try_kubectl("get boats");
    // With what kubectl remembers of discovery, or without.
    has(
        &gone.err,
        "the server could not find the requested resource",
    )
    .or_else(|_| {
        has(
            &gone.err,
            "the server doesn't have a resource type \"boats\"",
        )
    })?;
    inside.apply(DEFINITION)?;
    inside.kubectl("wait crd boats.sea.example.com --for condition=Established --timeout 60s")?;
    inside.eventually("the definition is served again", || {
        let left = inside.kubectl("get boats -A -o name")?;
        ensure(left.is_empty(), &format!("instances came back: {left}"))
    })?;
    cluster.delete()
}

fn values(inside: &World) -> Result {
    let oars = inside.kubectl("get boat curragh -o jsonpath={.spec.oars}")?;
    ensure(oars == "1", &format!("oars were not defaulted: {oars:?}"))?;
    let crew = inside.kubectl("get boat curragh -o jsonpath={.spec.crew}")?;
    ensure(crew == r#"[{"name":"ann","role":"rower"}]"#, &crew)?;
    // Unknown fields are refused by kubectl's strict validation, and pruned
    // for who does not ask for it.
    let extra = BOAT.replace("curragh", "extra") + "  anchor: heavy\n";
    let extra = inside.file("extra.yaml", &extra)?;
    let strict = inside.try_kubectl(&format!("create -f {}", extra.display()));
    has(&strict.err, "unknown field \"spec.anchor\"")?;
    inside.kubectl(&format!("create --validate=false -f {}", extra.display()))?;
    let spec = inside.kubectl("get boat extra -o jsonpath={.spec}")?;
    ensure(!spec.contains("anchor"), "an unknown field was kept")?;
    inside.kubectl("delete boat extra").map(drop)
}

fn mistakes(inside: &World) -> Result {
    let file = inside.file("wrong.yaml", WRONG)?;
    let refused = inside.try_kubectl(&format!("create -f {}", file.display()));
    ensure(refused.code == 1, &refused.out)?;
    for part in [
        "The Boat \"wrong\" is invalid:",
        "* spec.hull: Unsupported value: \"steel\": supported values: \"willow\", \"hide\"",
        "* spec.oars: Invalid value: 9: spec.oars in body should be less than or equal to 4",
        "* spec.sails: Too long: may not be more than 5 bytes",
    ] {
        has(&refused.err, part)?;
    }
    let patched = inside.try_kubectl(
        "patch boat curragh --type merge -p {\"spec\":{\"hull\":null,\"oars\":\"many\"}}",
    );
    ensure(patched.code == 1, &patched.out)?;
    for part in [
        "spec.hull: Required value",
        "spec.oars: Invalid value: \"string\": spec.oars in body must be of type integer: \"string\"",
    ] {
        has(&patched.err, part)?;
    }
    Ok(())
}

fn columns(inside: &World) -> Result {
    let table = inside.kubectl("get bt")?;
    let rows: Vec<Vec<&str>> = table
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure(
        rows[0] == ["NAME", "HULL", "OARS", "AGE"] && rows[1][..3] == ["curragh", "hide", "1"],
        &table,
    )?;
    let wide = inside.kubectl("get fleet -o wide")?;
    let rows: Vec<Vec<&str>> = wide
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    ensure(
        rows[0] == ["NAME", "HULL", "OARS", "SAILS", "AGE"] && rows[1][3] == "brown",
        &wide,
    )
}

fn subresources(inside: &World) -> Result {
    let get = |path: &str| inside.kubectl(&format!("get boat curragh -o jsonpath={{{path}}}"));
    let before = get(".metadata.generation")?;
    // Status is only written where it is asked for, and spec not there.
    inside.kubectl("patch boat curragh --type merge -p {\"status\":{\"afloat\":true}}")?;
    ensure(
        get(".status.afloat")?.is_empty(),
        "status came with the spec",
    )?;
    inside.kubectl(
        "patch boat curragh --type merge --subresource status \
         -p {\"status\":{\"afloat\":true,\"oars\":1},\"spec\":{\"oars\":4}}",
    )?;
    ensure(get(".status.afloat")? == "true", "status was not written")?;
    ensure(get(".spec.oars")? == "1", "spec came with the status")?;
    ensure(
        get(".metadata.generation")? == before,
        "the generation counts status",
    )?;
    has(
        &inside.kubectl("scale boat curragh --current-replicas 1 --replicas 3")?,
        "boat.sea.example.com/curragh scaled",
    )?;
    ensure(get(".spec.oars")? == "3", "scale was not written")?;
    ensure(
        get(".metadata.generation")? != before,
        "the generation does not count the spec",
    )?;
    let scale = inside.kubectl("get boat curragh --subresource scale -o jsonpath={.kind}")?;
    ensure(scale == "Scale", &scale)?;
    let most = inside.try_kubectl("scale boat curragh --replicas 5");
    has(
        &most.err,
        "spec.oars in body should be less than or equal to 4",
    )
}

fn server_side_apply(inside: &World) -> Result {
    let mate = inside.file("mate.yaml", MATE)?;
    let apply = format!(
        "apply --server-side --field-manager mate -f {}",
        mate.display()
    );
    has(
        &inside.kubectl(&apply)?,
        "boat.sea.example.com/curragh serverside-applied",
    )?;
    // A list map: each owns its own entry.
    let crew = inside.kubectl("get boat curragh -o jsonpath={.spec.crew[*].name}")?;
    ensure(crew == "ann bob", &crew)?;
    let hull = inside.file("hull.yaml", &BOAT.replace("hull: hide", "hull: willow"))?;
    let conflict = inside.try_kubectl(&format!(
        "apply --server-side --field-manager thief -f {}",
        hull.display()
    ));
    ensure(conflict.code == 1, &conflict.out)?;
    has(&conflict.err, "conflict with \"kubectl-create\"")?;
    has(&conflict.err, ".spec.hull")?;
    let empty = inside.file("mate.yaml", &MATE.replace("{name: bob, role: bailer}", ""))?;
    inside.kubectl(&format!(
        "apply --server-side --field-manager mate -f {}",
        empty.display()
    ))?;
    let crew = inside.kubectl("get boat curragh -o jsonpath={.spec.crew[*].name}")?;
    ensure(
        crew == "ann",
        &format!("what is no longer applied stays: {crew}"),
    )
}

/// What was applied by the client becomes the server's: kubectl moves the
/// ownership of the fields and applies once more.
fn migrate(inside: &World) -> Result {
    let skiff = BOAT.replace("curragh", "skiff");
    inside.apply(&skiff)?;
    let less = inside.file("skiff.yaml", &skiff.replace("sails: brown", ""))?;
    let applied = inside.try_kubectl(&format!("apply --server-side -f {}", less.display()));
    ensure(
        applied.code == 0 && applied.err.is_empty(),
        &format!("{}{}", applied.out, applied.err),
    )?;
    let sails = inside.kubectl("get boat skiff -o jsonpath={.spec.sails}")?;
    ensure(sails.is_empty(), "what is no longer applied stays")?;
    let managers = "jsonpath={.metadata.managedFields[*].manager}";
    let managers = inside.kubectl(&format!(
        "get boat skiff --show-managed-fields -o {managers}"
    ))?;
    ensure(managers == "kubectl kubectl-last-applied", &managers)
}
