# Compiles Debian's Lua, in its src: its own rules want libtool, and leave the header to debian/rules.
CFLAGS = -O2 -DLUA_USE_POSIX -DLUA_USE_DLOPEN
PLACE = lua5.4-deb-multiarch.h
OBJECTS = $(patsubst %.c,%.o,$(filter-out luac.c,$(wildcard *.c)))
lua: $(OBJECTS)
	$(CC) -o $@ $^ -lm -ldl
$(OBJECTS): $(PLACE)
$(PLACE):
	echo '#define DEB_HOST_MULTIARCH "x86_64-linux-gnu"' >$@
