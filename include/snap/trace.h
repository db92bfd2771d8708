#include "trace/trace-tools_snap.h"
