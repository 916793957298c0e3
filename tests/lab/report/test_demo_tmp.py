from pathlib import Path
import datetime
from synthgrad.lab.report import write_report
def test_x(make_run):
    runs=[make_run(m, s, layers=l, **{"interfaces":"all","lambda":0.0}) for m in ("backprop","none","dni","cdni") for l in (4,) for s in (0,1,2)]
    write_report(runs, Path("/tmp/rep/a.html"), date=datetime.date(2025,11,21))
    runs+=[make_run("cdni", 0, recipe="cifar10-fcn", layers=l, lambda_=x, learning_rate=3e-5, finished=f) for l,x,f in ((3,0.0,True),(3,0.5,False),(21,0.,True))]
    runs+=[make_run("dni", 0, recipe="cifar10-fcn", layers=3, lambda_=0.0, learning_rate=3e-5, finished=False)]
    write_report(runs, Path("/tmp/rep/b.html"), title="A long title for a report with <tags> & more")
