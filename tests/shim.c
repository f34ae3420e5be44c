/* Makes storage answer as other file systems do; loaded with LD_PRELOAD by the tests of the run folder.
 *   SHIM_LINK=unsupported   link() answers EPERM            SHIM_LINK=lost   it works, then answers EEXIST
 *   SHIM_RENAME=unsupported renameat2() answers EINVAL      SHIM_FSYNC=N     the Nth fsync() answers EIO
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int is_set(const char *name, const char *value) {
    const char *found = getenv(name);
    return found != NULL && strcmp(found, value) == 0;
}

static int fail(int code) {
    errno = code;
    return -1;
}

int link(const char *from, const char *to) {
    int (*real)(const char *, const char *) = dlsym(RTLD_NEXT, "link");
    if (is_set("SHIM_LINK", "unsupported")) return fail(EPERM);
    int answer = real(from, to);
    return answer == 0 && is_set("SHIM_LINK", "lost") ? fail(EEXIST) : answer;
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    int (*real)(int, const char *, int, const char *, int) = dlsym(RTLD_NEXT, "linkat");
    if (is_set("SHIM_LINK", "unsupported")) return fail(EPERM);
    int answer = real(from_folder, from, to_folder, to, flags);
    return answer == 0 && is_set("SHIM_LINK", "lost") ? fail(EEXIST) : answer;
}

int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned int flags) {
    int (*real)(int, const char *, int, const char *, unsigned int) = dlsym(RTLD_NEXT, "renameat2");
    if (is_set("SHIM_RENAME", "unsupported")) return fail(EINVAL);
    return real(from_folder, from, to_folder, to, flags);
}

int fsync(int descriptor) {
    static int calls = 0;
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    const char *nth = getenv("SHIM_FSYNC");
    if (nth != NULL && ++calls == atoi(nth)) return fail(EIO);
    return real(descriptor);
}
