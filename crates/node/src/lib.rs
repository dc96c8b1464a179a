//! Node agent: pods through CRI, volumes, probes, streaming and the service proxy. Knows nothing of virtual clusters.
