PYTHON = python3
BIN = .venv/bin
HTML = html
CHAPTERS = $(wildcard nbs/*.ipynb)
EXPERIMENTS = $(basename $(notdir $(wildcard nbs/experiments/[0-9]*.ipynb)))

.PHONY: run test checks build house faults gate outputs figures experiments html $(EXPERIMENTS)

run: .venv/notebooks  ## the main job: a network for handwritten digits in two minutes, and out.ipynb that shows it
	$(BIN)/papermill nbs/train.ipynb out.ipynb

test: .venv/dev  ## everything that CI runs before the gate
	PATH="$(CURDIR)/$(BIN):$$PATH" $(MAKE) checks

checks:          ## the same with the Python that is active
	OMP_NUM_THREADS=1 nbdev_test --n_workers 2
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile --cov=pfgm --cov-fail-under=90

.venv/%: settings.ini setup.py constraints.txt  # a group of requirements, installed again only when these files change
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/pip install -q -e '.[$*]' -c constraints.txt
	touch $@

house:           ## which chapters there are, and which modules and functions are too large (printed, never an error)
	@python3 tests/house.py

faults:          ## kills, damaged files, foreign code, full disks, bad inputs: what the real program makes of them, as a table
	OMP_NUM_THREADS=1 QUICK=$(QUICK) python tests/faults.py

gate:            ## notebooks clean, package regenerated, nothing left uncommitted
	bash .ci/gate

outputs:         ## run every reading notebook in place and keep its outputs
	for nb in nbs/tour.ipynb nbs/[0-9]*.ipynb nbs/coverage.ipynb; do jupyter execute --inplace $$nb || exit 1; done
	nbdev_clean

figures:         ## the pictures and the table of README.md, made by the notebooks
	PFGM_FIGURES=$(CURDIR)/results jupyter execute nbs/12_flow.ipynb
	papermill nbs/train.ipynb out.ipynb -p run_dir runs/figures -p restart True
	cp runs/figures/summary.json results/mnist5k.json
	papermill nbs/train.ipynb out.ipynb -p run_dir runs/figures-D16 -p restart True -p D 16
	cp runs/figures-D16/summary.json results/mnist5k-D16.json
	papermill nbs/train.ipynb out.ipynb -p run_dir runs/figures-10 -p restart True -p minutes 10
	cp runs/figures-10/samples.png results/digits.png
	cp runs/figures-10/summary.json results/mnist5k-10.json
	python results/table.py

experiments: $(EXPERIMENTS)  ## every claim at the scale of a CPU; stopped and typed again, it goes on. One: make 09_dimension
	python results/table.py

THREADS = 1
15_minutes: THREADS = $(shell nproc)  # one network at a time, with all cores
04_solvers 07_large_batch: PARAMETERS = $(if $(CIFAR_DIR),-p cifar_dir $(CIFAR_DIR))  # these look at real photographs, too

$(EXPERIMENTS): %: nbs/experiments/%.ipynb
	mkdir -p runs/experiments
	OMP_NUM_THREADS=$(THREADS) papermill $< runs/experiments/$@.ipynb $(PARAMETERS)

html:            ## a reading copy of every notebook, for people without Jupyter
	jupyter nbconvert --to html --output-dir $(HTML) $(CHAPTERS)
	for page in $(HTML)/*.html; do sed 's/\.ipynb\(["#]\)/.html\1/g' $$page > $$page.new && mv $$page.new $$page; done
