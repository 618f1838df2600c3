#pragma once
#define WORD "first"
void tick();
const char* ending();
extern int shared_count;
