# Everything happens in .venv, made from what the project's own files pin.
PYTHON ?= python3
VENV := .venv
FEAST := $(VENV)/feast
ATLAS := $(VENV)/atlas
SNIPPETS := $(VENV)/snippets
PEERS := $(VENV)/peers
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
FAKE_GCS := v1.56.1
BEAM := v2.77.0
GOOGLE := 16.12.1
FLINK_OPERATOR := 1.10.0
ENGINES := $(CURDIR)/$(VENV)/engines
# Each process goes through its share of the tests in order, then helps others. Three on
# two cores: many tests wait for processes that they have started.
PARALLEL := -n 3 --dist worksteal
# An engine is started by one process.
GROUPED := -n 2 --dist loadgroup
export TF_CPP_MIN_LOG_LEVEL ?= 3

.DEFAULT_GOAL := help
.PHONY: help install demo test test-models test-stores test-faults test-engines \
  test-infra test-hand-off test-report lint audit sbom bench bench-smoke \
  bench-peers constraints clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 16

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -qq --upgrade pip
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[demo,dev]'
	touch $@

install: $(STAMP)  ## Install the package and its tools into .venv

demo: $(STAMP)  ## Extract activations of real handwritten digits, and search them
	cd examples/digits && PATH="$(CURDIR)/$(BIN):$$PATH" ./demo.sh

test: $(STAMP)  ## Run the tests
	$(BIN)/python -m pytest $(PARALLEL)

test-models: $(STAMP)  ## Run the tests on well-known and on very large models
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[zoo]'
	$(BIN)/python -m pytest tests/test_zoo.py tests/test_models.py -m heavy $(PARALLEL)

$(BIN)/fake-gcs-server: $(STAMP)
	test -x $@ || \
	  GOBIN=$(CURDIR)/$(BIN) go install github.com/fsouza/fake-gcs-server@$(FAKE_GCS)

test-stores: $(BIN)/fake-gcs-server  ## Run the tests on servers of S3 and GCS (needs Go)
	REQUIRE_STORES=1 FAKE_GCS_SERVER=$(CURDIR)/$(BIN)/fake-gcs-server \
	  $(BIN)/python -m pytest tests/test_stores.py -m heavy $(PARALLEL)

test-faults: $(BIN)/fake-gcs-server  ## Kill, fill up, damage and fuzz (needs Go and root)
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[fuzz]'
	REQUIRE_STORES=1 REQUIRE_FAULTS=1 \
	FAKE_GCS_SERVER=$(CURDIR)/$(BIN)/fake-gcs-server \
	  $(BIN)/python -m pytest tests/faults tests/fuzz tests/test_processes.py \
	    tests/test_runners.py -m heavy $(PARALLEL)

$(ENGINES)/%/jars: tests/engines/%.xml
	mvn -q -B -f $< dependency:copy-dependencies -DincludeScope=runtime \
	  -DoutputDirectory=$@.part
	rm -rf $@ && mv $@.part $@ && touch $@

$(ENGINES)/bin/prism: $(STAMP)
	test -x $@ || \
	  GOBIN=$(ENGINES)/bin go install github.com/apache/beam/sdks/v2/go/cmd/prism@$(BEAM)

$(ENGINES)/bin/boot: $(STAMP)
	test -x $@ || \
	  GOBIN=$(ENGINES)/go go install github.com/apache/beam/sdks/v2/python/container@$(BEAM)
	test -x $@ || mv $(ENGINES)/go/container $@

# needs Go, Java and Maven
test-engines: $(ENGINES)/flink/jars $(ENGINES)/spark/jars $(ENGINES)/bin/prism  ## Start Flink, Spark, Prism and Dask, and run on them
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[engines]'
	REQUIRE_ENGINES=1 $(BIN)/python -m pytest tests/engines tests/test_reading.py -m heavy $(GROUPED)

$(ENGINES)/schemas: $(STAMP)
	mkdir -p $@.part
	$(BIN)/python -m pip download -qq --no-deps -d $@.part \
	  cdktf-cdktf-provider-google==$(GOOGLE)
	mvn -q -B dependency:copy -DoutputDirectory=$@.part \
	  -Dartifact=org.apache.flink:flink-kubernetes-operator-api:$(FLINK_OPERATOR)
	rm -rf $@ && mv $@.part $@ && touch $@

# needs Go, Java, Maven, buildah, debootstrap and root
test-infra: $(ENGINES)/flink/jars $(ENGINES)/bin/boot $(ENGINES)/schemas  ## Build the images, run them, and check the files of infra/
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[engines,infra]'
	REQUIRE_ENGINES=1 $(BIN)/python -m pytest tests/infra -m heavy

# Feast needs other versions than anybody else, so it has an environment of its own.
$(FEAST)/bin/feast: tests/hand_off/feast-constraints.txt
	rm -rf $(FEAST) && $(PYTHON) -m venv $(FEAST)
	$(FEAST)/bin/python -m pip install -qq -c $< 'feast[duckdb,milvus]'

# Embedding Atlas without the models that it can run, which are gigabytes.
$(ATLAS)/bin/embedding-atlas: tests/hand_off/atlas-requirements.txt
	rm -rf $(ATLAS) && $(PYTHON) -m venv $(ATLAS)
	$(ATLAS)/bin/python -m pip install -qq --no-deps -r $<

# Only mypy reads these, so what they need is left out.
$(SNIPPETS): tests/hand_off/snippets-requirements.txt $(STAMP)
	rm -rf $@ $@.part
	$(BIN)/python -m pip install -qq --no-deps --target $@.part -r $<
	cp -r tests/hand_off/stubs/. $@.part
	mv $@.part $@ && touch $@

# needs Java and Maven
test-hand-off: $(STAMP) $(FEAST)/bin/feast $(ATLAS)/bin/embedding-atlas $(SNIPPETS) $(ENGINES)/iceberg/jars  ## Publish to real stores, and read with their own readers
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[hand-off]'
	REQUIRE_HAND_OFF=1 FEAST=$(CURDIR)/$(FEAST)/bin/feast \
	ATLAS=$(CURDIR)/$(ATLAS)/bin/embedding-atlas SNIPPETS=$(CURDIR)/$(SNIPPETS) \
	  $(BIN)/python -m pytest tests/hand_off -m heavy $(PARALLEL)

test-report: $(STAMP)  ## Look at reports in a browser (needs Chromium)
	REQUIRE_BROWSER=1 $(BIN)/python -m pytest tests/test_report.py tests/test_report_limits.py -m heavy

audit: $(STAMP)  ## Look for known faults of the pinned dependencies
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[audit]'
	$(BIN)/pip-audit --no-deps --disable-pip -r constraints.txt

sbom: $(STAMP)  ## Write sbom.json (CycloneDX), what the constraints pin
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[audit]'
	$(BIN)/cyclonedx-py requirements constraints.txt --of JSON -o sbom.json

lint: $(STAMP)  ## Check format, style and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(STAMP)  ## Measure throughput, start, cores, heavy models, depth of taps, decoding, planning, growing and scale
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/start.py
	$(BIN)/python benchmarks/cores.py
	$(BIN)/python benchmarks/heavy.py
	$(BIN)/python benchmarks/depth.py
	$(BIN)/python benchmarks/decode.py
	$(BIN)/python benchmarks/planning.py
	$(BIN)/python benchmarks/growth.py
	$(BIN)/python benchmarks/scale.py

bench-smoke: $(STAMP)  ## Run the benchmarks on very little, to see that they work
	$(BIN)/python -m pip install -qq -c constraints.txt -e '.[bench]'
	$(BIN)/python benchmarks/throughput.py --files 3 --rows-per-file 2000 --repeats 1
	$(BIN)/python benchmarks/start.py --repeats 1 --shards 3
	$(BIN)/python benchmarks/cores.py --files 3 --rows-per-file 20000 --repeats 1
	$(BIN)/python benchmarks/heavy.py --batches 2 --batch-rows 2 --size 32 --repeats 1
	$(BIN)/python benchmarks/depth.py --batch-rows 2 --size 32 --repeats 1
	$(BIN)/python benchmarks/decode.py --images 200 --side 64 --photos 40 \
	  --photo-height 600 --repeats 1
	$(BIN)/python benchmarks/planning.py --files 10000
	$(BIN)/python benchmarks/growth.py --small --files 10 --side 32 --repeats 1 --rows 2000
	$(BIN)/python benchmarks/scale.py --shards 10000

# Ray Data and Spark need another pandas. TensorFlow, numpy and Arrow they share with
# featuretap, so that all compute the same with the same.
$(PEERS)/bin/ray: benchmarks/peers-requirements.txt $(STAMP)
	rm -rf $(PEERS) && $(BIN)/python -m venv $(PEERS)
	$(BIN)/python -c 'import site; print(*site.getsitepackages())' \
	  > $$(echo $(PEERS)/lib/python*/site-packages)/shared.pth
	$(PEERS)/bin/python -m pip install -qq --no-deps -r $<
	touch $@

# needs Java
bench-peers: $(PEERS)/bin/ray  ## Measure featuretap beside Ray Data and Spark
	$(BIN)/python benchmarks/peers.py

constraints:  ## Resolve constraints.txt anew (needs uv)
	uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --no-header --no-annotate -o constraints.txt

clean:  ## Remove what the demo and the benchmarks made
	rm -rf examples/digits/data examples/digits/out examples/digits/*.keras benchmarks/data
