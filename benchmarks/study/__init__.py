"""How good every method is, on many data sets and libraries: `python -m benchmarks.study`.

The protocol of Brophy, Hammoudeh, Lowd: Adapting and evaluating influence-estimation methods for
gradient-boosted decision trees. JMLR 24 (2023); see benchmarks/STUDY.md.

| file        | what it is                                                          |
|-------------|---------------------------------------------------------------------|
| scales.py   | how much is done: data sets, libraries, sizes                       |
| problems.py | a data set cut into training rows, queries and held-out rows        |
| models.py   | the model of each library                                           |
| subject.py  | one model on one problem, its retrainings, and one method's answers |
| measures.py | what is measured of a method                                        |
| cells.py    | every measure of every method: done once, kept, errors recorded     |
| report.py   | ranks, means and intervals over all cells; tables and plots         |
"""
