"""Building blocks below the detectors: backbones, necks, weights, assignment."""
