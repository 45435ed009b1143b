/* A tape drive for programs that know nothing of one: preloaded, it shows them an image drive as a Linux st node.
 *
 *   CUSTODY_TAPE_NODE   the path that programs open; nothing need be there
 *   CUSTODY_TAPE_DRIVE  the directory of an image drive: include/custody/tape/drives/cartridges.py says what is in it
 *
 * The format of image, state and sidecar is that of include/custody/tape/drives, so that what one side has written is
 * read by the other. A descriptor of the node is one of the drive's directory with O_NONBLOCK set as a mark and a flock
 * on it: it goes through fork, exec and shells, and a call that is not intercepted fails loudly (EISDIR, EBADF).
 * As the last close in another process cannot be seen, the filemark at close is written by the next opening; a process
 * that opened the drive itself writes it at its own close. Not for static programs, nor for reads inside of stdio.
 * Of a cartridge's faults, those that kill a process are left to the Python drive.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/ioctl.h>
#include <sys/mtio.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <unistd.h>

enum { IDLE, READING, CUTTING, WRITING };
enum { NONE = 0, MARK = 2, EARLY = 3, EOD_1 = 5, END_OF_DATA = 7 };
enum { MAX_BLOCK = 0xFFFFFF, WEOF_WITHOUT_FLUSH = 35 };

struct head {
  char magic[8], boot[8];
  int64_t inode, changed, offset, blocks, marks;
  int32_t file, block, eof, rw, block_size, access, opener, pad;
};
_Static_assert(sizeof(struct head) == 88, "as tap.py packs it");

struct drive {
  int image; /* -1: no cartridge */
  int state;
  int64_t size;
  char sidecar[16384], sidecar_path[4096];
  struct head h;
};

static const char *node, *directory;
static dev_t directory_dev;
static ino_t directory_ino;

#define REAL(name) \
  static __typeof__(&name) real; \
  if (!real) real = (__typeof__(&name))dlsym(RTLD_NEXT, #name)

static int fail(int number) { errno = number; return -1; }

static int real_open(const char *path, int flags, mode_t mode) { REAL(open); return real(path, flags, mode); }
static int real_close(int fd) { REAL(close); return real(fd); }
static int real_fstat(int fd, struct stat *s) { REAL(fstat); return real(fd, s); }
static int real_fcntl(int fd, int command, void *argument) { REAL(fcntl); return real(fd, command, argument); }
static ssize_t real_read(int fd, void *buffer, size_t n) { REAL(read); return real(fd, buffer, n); }

static int is_on(void) {
  static int known;
  if (!known) {
    struct stat s;
    node = getenv("CUSTODY_TAPE_NODE");
    directory = getenv("CUSTODY_TAPE_DRIVE");
    REAL(stat);
    if (node && directory && !real(directory, &s)) { directory_dev = s.st_dev; directory_ino = s.st_ino; }
    known = 1;
  }
  return directory_ino != 0;
}
static int is_node(const char *path) { return is_on() && path && !strcmp(path, node); }
static int is_tape(int fd) {
  struct stat s;
  if (!is_on() || real_fstat(fd, &s) || !S_ISDIR(s.st_mode) || s.st_ino != directory_ino || s.st_dev != directory_dev)
    return 0;
  return (real_fcntl(fd, F_GETFL, NULL) & O_NONBLOCK) != 0;
}

/* -- cartridge and state ------------------------------------------------------------------------------------------ */

static const char *value_of(struct drive *d, const char *key) {
  char quoted[64];
  snprintf(quoted, sizeof quoted, "\"%s\"", key);
  char *at = strstr(d->sidecar, quoted);
  if (!at) return NULL;
  for (at += strlen(quoted); *at == ' ' || *at == ':' || *at == '\n'; at++) {}
  return at;
}
static int64_t number_of(struct drive *d, const char *key, int64_t otherwise) {
  const char *v = value_of(d, key);
  return v && *v >= '0' && *v <= '9' ? atoll(v) : otherwise;
}
static int is_true(struct drive *d, const char *key) {
  const char *v = value_of(d, key);
  return v && !strncmp(v, "true", 4);
}
static void path_in_drive(char *path, const char *name) { snprintf(path, 4096, "%s/%s", directory, name); }

static void forget_position(struct head *h) {
  h->offset = h->blocks = h->marks = 0;
  h->file = h->block = -1;
  h->eof = NONE;
  h->rw = IDLE;
}

static int begin(struct drive *d) {
  char path[4096], boot[8] = "";
  struct stat link;
  memset(d, 0, sizeof *d);
  path_in_drive(path, "loaded");
  d->image = real_open(path, O_RDWR | O_CLOEXEC, 0);
  if (d->image < 0 && (errno == EACCES || errno == EROFS)) d->image = real_open(path, O_RDONLY | O_CLOEXEC, 0);
  REAL(lstat);
  if (real(path, &link)) memset(&link, 0, sizeof link);
  if (d->image >= 0) {
    struct stat s;
    d->size = real_fstat(d->image, &s) ? 0 : s.st_size;
    char target[3000];
    ssize_t n = readlink(path, target, sizeof target - 1);
    target[n > 0 ? n : 0] = 0;
    if (*target == '/') snprintf(d->sidecar_path, 4096, "%s.json", target);
    else snprintf(d->sidecar_path, 4096, "%.1000s/%.3000s.json", directory, target);
    int sidecar = real_open(d->sidecar_path, O_RDONLY | O_CLOEXEC, 0);
    if (sidecar >= 0) {
      if (real_read(sidecar, d->sidecar, sizeof d->sidecar - 1) < 0) *d->sidecar = 0;
      real_close(sidecar);
    }
  }
  int id = real_open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC, 0);
  if (id >= 0) {
    if (real_read(id, boot, 8) != 8) memset(boot, 0, 8);
    real_close(id);
  }
  path_in_drive(path, "state");
  d->state = real_open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (d->state < 0) { int e = errno; if (d->image >= 0) real_close(d->image); return fail(e); }
  struct head *h = &d->h;
  int64_t changed = (int64_t)link.st_ctim.tv_sec * 1000000000 + link.st_ctim.tv_nsec;
  int is_known = pread(d->state, h, sizeof *h, 0) == sizeof *h && !memcmp(h->magic, "CUSTAPE1", 8);
  if (!is_known || memcmp(h->boot, boot, 8) || h->inode != (int64_t)link.st_ino || h->changed != changed ||
      h->offset > d->size) {
    if (!is_known) memset(h, 0, sizeof *h);
    forget_position(h);
    if (memcmp(h->boot, boot, 8)) h->block_size = 0;
    memcpy(h->magic, "CUSTAPE1", 8);
    memcpy(h->boot, boot, 8);
    h->inode = link.st_ino;
    h->changed = changed;
  }
  return 0;
}
static void save(struct drive *d) { if (pwrite(d->state, &d->h, sizeof d->h, 0) < 0) {} }
static int end(struct drive *d, int result) {
  int e = errno;
  save(d);
  if (d->image >= 0) real_close(d->image);
  real_close(d->state);
  errno = e;
  return result;
}
static int is_protected(struct drive *d) {
  return is_true(d, "write_protected") || (real_fcntl(d->image, F_GETFL, NULL) & O_ACCMODE) == O_RDONLY;
}

/* -- records ------------------------------------------------------------------------------------------------------ */

static int64_t extent(uint32_t length) { return length ? 8 + (int64_t)length + (length & 1) : 4; }

/* 1: a block, 0: a filemark, -1: nothing, or a torn record */
static int record_at(struct drive *d, int64_t offset, uint32_t *length) {
  uint32_t tail;
  if (pread(d->image, length, 4, offset) != 4) return -1;
  if (!*length) return 0;
  int64_t stop = offset + extent(*length);
  if (*length > MAX_BLOCK || stop > d->size) return -1;
  return pread(d->image, &tail, 4, stop - 4) == 4 && tail == *length ? 1 : -1;
}
static int record_before(struct drive *d, int64_t offset, uint32_t *length) {
  if (offset < 4 || pread(d->image, length, 4, offset - 4) != 4) return -1;
  return *length != 0;
}
static void pass(struct head *h, uint32_t length) {
  h->offset += extent(length);
  if (length) { h->blocks++; if (h->block >= 0) h->block++; }
  else { h->marks++; if (h->file >= 0) h->file++; h->block = 0; }
}
static void pass_back(struct head *h, uint32_t length) {
  h->offset -= extent(length);
  if (h->offset < 0) h->offset = 0;
  if (length) h->blocks--; else h->marks--;
}
static void to_end(struct drive *d) {
  uint32_t length;
  while (record_at(d, d->h.offset, &length) >= 0) pass(&d->h, length);
}
static int cut(struct drive *d) {
  d->h.rw = CUTTING;
  save(d);
  if (d->size > d->h.offset && ftruncate(d->image, d->h.offset)) return fail(EIO);
  char *v = (char *)value_of(d, "power_cut");
  if (v && !strncmp(v, "true", 4) && v[-1] == ' ') { /* as many bytes as before, so that nothing else moves */
    int sidecar = real_open(d->sidecar_path, O_WRONLY | O_CLOEXEC, 0);
    if (sidecar >= 0) {
      if (pwrite(sidecar, "false", 5, v - 1 - d->sidecar) < 0) {}
      real_close(sidecar);
    }
  }
  d->size = d->h.offset;
  d->h.rw = WRITING;
  save(d);
  return 0;
}
static int write_marks(struct drive *d, int64_t count) {
  struct head *h = &d->h;
  static const char zeros[4096];
  if (is_protected(d)) return fail(EACCES);
  if (count) {
    if (h->offset + 4 * count > number_of(d, "capacity_bytes", INT64_MAX)) { h->eof = EARLY; h->block = 0; return fail(EIO); }
    if (h->rw != WRITING && cut(d)) return -1;
    for (int64_t i = 0; i < count; i++) {
      if (pwrite(d->image, zeros, 4, h->offset) != 4) return fail(EIO);
      h->offset += 4;
      h->marks++;
      if (h->file >= 0) h->file++;
    }
    d->size = h->offset;
  }
  fdatasync(d->image);
  h->block = 0;
  h->eof = NONE;
  h->rw = IDLE;
  return 0;
}
static int settle(struct drive *d) {
  struct head *h = &d->h;
  uint32_t length, same;
  int was_writing = h->rw == WRITING, result = 0, may = !is_protected(d) && !is_true(d, "power_cut");
  h->rw = IDLE;
  if (was_writing) {
    to_end(d);
    if (record_before(d, h->offset, &length) == 1 && may) {
      if (d->size > h->offset && ftruncate(d->image, h->offset)) return fail(EIO);
      h->rw = WRITING;
      result = write_marks(d, 1);
      h->rw = IDLE;
      if (!result) h->eof = MARK;
    }
  } else if (h->file < 0 && !h->offset && may && record_before(d, d->size, &length) == 1 &&
             record_at(d, d->size - extent(length), &same) == 1 && same == length) {
    uint32_t mark = 0;
    if (pwrite(d->image, &mark, 4, d->size) == 4) d->size += 4;
  }
  return result;
}

/* -- the calls ---------------------------------------------------------------------------------------------------- */

static int tape_open(int flags) {
  struct drive d;
  int fd = real_open(directory, O_RDONLY | O_DIRECTORY | O_NONBLOCK | (flags & O_CLOEXEC), 0);
  if (fd < 0) return -1;
  if (flock(fd, LOCK_EX | LOCK_NB)) { real_close(fd); return fail(EBUSY); }
  if (begin(&d)) { int e = errno; real_close(fd); return fail(e); }
  int number = 0;
  if (d.image < 0) number = flags & O_NONBLOCK ? 0 : ENOMEDIUM;
  else {
    settle(&d);
    if ((flags & O_ACCMODE) != O_RDONLY && is_protected(&d)) number = EROFS;
  }
  d.h.access = flags & O_ACCMODE;
  d.h.opener = getpid();
  end(&d, 0);
  if (number) { real_close(fd); return fail(number); }
  return fd;
}

static ssize_t read_one(struct drive *d, void *buffer, size_t n) {
  struct head *h = &d->h;
  uint32_t length;
  int kind = record_at(d, h->offset, &length);
  if (kind < 0) {
    int is_first = h->eof == MARK;
    h->block = -1;
    if (!is_first) return fail(EIO);
    h->eof = END_OF_DATA;
    return 0;
  }
  if (kind == 0) { pass(h, 0); h->eof = MARK; return 0; }
  if (number_of(d, "read_error_at_block", -1) == h->blocks) { h->block = -1; return fail(EIO); }
  int64_t at = h->offset + 4, block = h->blocks;
  pass(h, length);
  h->eof = NONE;
  if (length > n) return fail(ENOMEM);
  if (pread(d->image, buffer, length, at) != (ssize_t)length) return fail(EIO);
  if (number_of(d, "flip_bit_at_block", -1) == block) ((char *)buffer)[length / 2] ^= 1;
  return length;
}
static ssize_t tape_read(void *buffer, size_t n) {
  struct drive d;
  struct head *h = &d.h;
  if (!n) return 0;
  if (begin(&d)) return -1;
  if (d.image < 0) return end(&d, fail(ENOMEDIUM));
  if (h->access == O_WRONLY) return end(&d, fail(EBADF));
  h->rw = READING;
  if (h->eof >= EOD_1) {
    if (h->eof == END_OF_DATA) return end(&d, fail(EIO));
    h->eof++;
    return end(&d, 0);
  }
  if (!h->block_size) return end(&d, read_one(&d, buffer, n));
  if (n % h->block_size) return end(&d, fail(EINVAL));
  size_t total = 0;
  while (total < n) {
    uint32_t length = 0;
    int kind = record_at(&d, h->offset, &length);
    if (total && (kind != 1 || (int)length != h->block_size)) break;
    if (kind == 1 && (int)length != h->block_size) return end(&d, fail(EIO));
    ssize_t got = read_one(&d, (char *)buffer + total, h->block_size);
    if (got < 0) return end(&d, -1);
    if (!got) break;
    total += got;
  }
  return end(&d, total);
}

static int write_one(struct drive *d, const void *buffer, uint32_t n) {
  struct head *h = &d->h;
  int64_t capacity = number_of(d, "capacity_bytes", INT64_MAX);
  if (h->eof == EARLY || (number_of(d, "no_space_at_block", -1) == h->blocks && h->eof != EOD_1)) {
    h->eof = EOD_1;
    return fail(ENOSPC);
  }
  int64_t stop = h->offset + extent(n);
  if (stop > capacity) { h->eof = EARLY; return fail(ENOSPC); }
  if (number_of(d, "write_error_at_block", -1) == h->blocks) { h->eof = NONE; h->block = -1; return fail(EIO); }
  struct iovec parts[4] = {{&n, 4}, {(void *)buffer, n}, {"", n & 1}, {&n, 4}};
  if (pwritev(d->image, parts, 4, h->offset) != stop - h->offset) {
    if (ftruncate(d->image, h->offset)) {}
    return fail(EIO);
  }
  pass(h, n);
  d->size = stop;
  h->eof = h->eof == EOD_1 || stop > capacity - number_of(d, "early_warning_bytes", 0) ? EARLY : NONE;
  return 0;
}
static ssize_t tape_write(const void *buffer, size_t n) {
  struct drive d;
  if (!n) return 0;
  if (begin(&d)) return -1;
  if (d.image < 0) return end(&d, fail(ENOMEDIUM));
  if (d.h.access == O_RDONLY) return end(&d, fail(EBADF));
  size_t size = d.h.block_size ? (size_t)d.h.block_size : n, written = 0;
  if (size > MAX_BLOCK || n % size) return end(&d, fail(EINVAL));
  if (is_protected(&d)) return end(&d, fail(EACCES));
  if (d.h.rw != WRITING && cut(&d)) return end(&d, -1);
  while (written < n) {
    if (write_one(&d, (const char *)buffer + written, size)) return end(&d, written ? (int)written : -1);
    written += size;
  }
  return end(&d, n);
}

static int forward_files(struct drive *d, int64_t count) {
  struct head *h = &d->h;
  uint32_t length = 0;
  for (int64_t i = 0; i < count; i++) {
    int kind;
    while ((kind = record_at(d, h->offset, &length)) == 1) pass(h, length);
    if (kind < 0) { h->block = -1; h->eof = END_OF_DATA; return fail(EIO); }
    pass(h, 0);
  }
  if (count) h->block = 0;
  h->eof = MARK;
  return 0;
}
static int back_files(struct drive *d, int64_t count) {
  struct head *h = &d->h;
  uint32_t length = 0;
  h->eof = NONE;
  for (int64_t i = 0; i < count; i++) {
    int kind;
    while ((kind = record_before(d, h->offset, &length)) == 1) pass_back(h, length);
    if (kind < 0) { h->block = 0; return fail(EIO); }
    pass_back(h, 0);
    if (h->file >= 0) h->file--;
  }
  if (count) h->block = -1;
  return 0;
}
static int forward_blocks(struct drive *d, int64_t count) {
  struct head *h = &d->h;
  uint32_t length;
  h->eof = NONE;
  while (count--) {
    int kind = record_at(d, h->offset, &length);
    if (kind < 0) { h->eof = END_OF_DATA; return fail(EIO); }
    pass(h, length);
    if (!kind) { h->eof = MARK; return fail(EIO); }
  }
  return 0;
}
static int back_blocks(struct drive *d, int64_t count) {
  struct head *h = &d->h;
  uint32_t length;
  h->eof = NONE;
  while (count--) {
    int kind = record_before(d, h->offset, &length);
    if (kind < 0) return fail(EIO);
    pass_back(h, length);
    if (!kind) { if (h->file >= 0) h->file--; h->block = -1; return fail(EIO); }
    if (h->block >= 1) h->block--;
  }
  return 0;
}
static void rewound(struct head *h) { h->offset = h->blocks = h->marks = h->file = h->block = 0; h->eof = NONE; }
static int seek(struct drive *d, int64_t count) {
  struct head *h = &d->h;
  uint32_t length;
  rewound(h);
  for (int64_t i = 0; i < count && record_at(d, h->offset, &length) >= 0; i++) pass(h, length);
  int is_there = h->blocks + h->marks == count;
  if (count) h->file = h->block = -1;
  return is_there ? 0 : fail(EIO);
}

static int operate(struct drive *d, int op, int64_t count) {
  char path[4096];
  struct head *h = &d->h;
  int result = 0;
  switch (op) {
  case MTWEOF: case WEOF_WITHOUT_FLUSH: return write_marks(d, count);
  case MTSETBLK: if (count > MAX_BLOCK) return fail(EINVAL); h->block_size = count; return 0;
  case MTNOP: case MTLOCK: case MTUNLOCK: case MTSETDRVBUFFER: return 0;
  case MTCOMPRESSION: return fail(EIO);
  case MTREW: case MTRETEN: case MTLOAD: rewound(h); break;
  case MTOFFL: case MTUNLOAD:
    forget_position(h);
    path_in_drive(path, "loaded");
    unlink(path);
    break;
  case MTERASE: if (is_protected(d)) return fail(EACCES); result = cut(d); break;
  case MTFSF: result = forward_files(d, count); break;
  case MTBSF: result = back_files(d, count); break;
  case MTFSFM: result = forward_files(d, count) || back_files(d, 1) ? -1 : 0; break;
  case MTBSFM: result = back_files(d, count) || forward_files(d, 1) ? -1 : 0; break;
  case MTFSR: result = forward_blocks(d, count); break;
  case MTBSR: result = back_blocks(d, count); break;
  case MTEOM: to_end(d); h->block = -1; h->eof = END_OF_DATA; break;
  case MTSEEK: result = seek(d, count); break;
  default: return fail(EINVAL);
  }
  h->rw = IDLE;
  return result;
}
static int tape_operate(struct mtop *m) {
  struct drive d;
  int64_t count = m->mt_count;
  if (begin(&d)) return -1;
  if (d.image < 0) return end(&d, fail(ENOMEDIUM));
  if (count < 0) return end(&d, fail(EINVAL));
  if (d.h.rw == WRITING && (m->mt_op == MTREW || m->mt_op == MTOFFL || m->mt_op == MTBSF || m->mt_op == MTBSFM ||
                            m->mt_op == MTSEEK)) {
    if (write_marks(&d, 1)) return end(&d, -1);
    d.h.eof = MARK;
    count += m->mt_op == MTBSF || m->mt_op == MTBSFM;
  }
  return end(&d, operate(&d, m->mt_op, count));
}
static int tape_get(struct mtget *g) {
  struct drive d;
  if (begin(&d)) return -1;
  memset(g, 0, sizeof *g);
  g->mt_type = MT_ISSCSI2;
  g->mt_dsreg = d.h.block_size;
  if (d.image < 0) {
    g->mt_fileno = g->mt_blkno = -1;
    g->mt_gstat = 0x00050000;
    return end(&d, 0);
  }
  g->mt_dsreg |= number_of(&d, "density", 0x5a) << 24;
  g->mt_fileno = d.h.file;
  g->mt_blkno = d.h.block;
  g->mt_gstat = 0x01010000;
  if (d.h.block == 0) g->mt_gstat |= d.h.file == 0 ? 0x40000000L : 0x80000000L;
  if (d.h.eof == EARLY) g->mt_gstat |= 0x20000000;
  else if (d.h.eof >= EOD_1) g->mt_gstat |= 0x08000000;
  if (is_protected(&d)) g->mt_gstat |= 0x04000000;
  return end(&d, 0);
}
static int tape_tell(struct mtpos *p) {
  struct drive d;
  if (begin(&d)) return -1;
  p->mt_blkno = d.h.blocks + d.h.marks;
  return end(&d, d.image < 0 ? fail(ENOMEDIUM) : 0);
}
static int tape_close(void) {
  struct drive d;
  int result = 0;
  if (begin(&d)) return -1;
  if (d.image >= 0 && d.h.opener == getpid() && d.h.rw == WRITING) result = settle(&d);
  return end(&d, result);
}

/* -- what programs call ------------------------------------------------------------------------------------------- */

#define MODE_OF(flags) \
  mode_t mode = 0; \
  if ((flags) & (O_CREAT | O_TMPFILE)) { va_list a; va_start(a, flags); mode = va_arg(a, int); va_end(a); }

int open(const char *path, int flags, ...) { MODE_OF(flags) return is_node(path) ? tape_open(flags) : real_open(path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_OF(flags) return is_node(path) ? tape_open(flags) : real_open(path, flags | O_LARGEFILE, mode); }
int openat(int at, const char *path, int flags, ...) { MODE_OF(flags) REAL(openat); return is_node(path) ? tape_open(flags) : real(at, path, flags, mode); }
int openat64(int at, const char *path, int flags, ...) { MODE_OF(flags) REAL(openat64); return is_node(path) ? tape_open(flags) : real(at, path, flags, mode); }
int __open_2(const char *path, int flags) { return open(path, flags); }
int __open64_2(const char *path, int flags) { return open64(path, flags); }
int __openat_2(int at, const char *path, int flags) { return openat(at, path, flags); }
int __openat64_2(int at, const char *path, int flags) { return openat64(at, path, flags); }
int creat(const char *path, mode_t mode) { return open(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }
int creat64(const char *path, mode_t mode) { return open64(path, O_WRONLY | O_CREAT | O_TRUNC, mode); }

int close(int fd) {
  int others = 0, result = 0;
  if (!is_tape(fd)) return real_close(fd);
  for (int i = 0; i < 256; i++) others += i != fd && is_tape(i);
  if (!others) result = tape_close();
  int e = errno;
  real_close(fd);
  errno = e;
  return result;
}
ssize_t read(int fd, void *buffer, size_t n) { return is_tape(fd) ? tape_read(buffer, n) : real_read(fd, buffer, n); }
ssize_t __read_chk(int fd, void *buffer, size_t n, size_t room) { (void)room; return read(fd, buffer, n); }
ssize_t write(int fd, const void *buffer, size_t n) { REAL(write); return is_tape(fd) ? tape_write(buffer, n) : real(fd, buffer, n); }
ssize_t readv(int fd, const struct iovec *parts, int n) {
  REAL(readv);
  if (!is_tape(fd)) return real(fd, parts, n);
  return n == 1 ? tape_read(parts->iov_base, parts->iov_len) : fail(EINVAL);
}
ssize_t writev(int fd, const struct iovec *parts, int n) {
  REAL(writev);
  if (!is_tape(fd)) return real(fd, parts, n);
  return n == 1 ? tape_write(parts->iov_base, parts->iov_len) : fail(EINVAL);
}
ssize_t copy_file_range(int in, off64_t *from, int out, off64_t *to, size_t n, unsigned int flags) {
  REAL(copy_file_range);
  return is_tape(in) || is_tape(out) ? fail(EINVAL) : real(in, from, out, to, n, flags);
}
off_t lseek(int fd, off_t offset, int whence) { REAL(lseek); return is_tape(fd) ? 0 : real(fd, offset, whence); }
off64_t lseek64(int fd, off64_t offset, int whence) { return lseek(fd, offset, whence); }
int ioctl(int fd, unsigned long request, ...) {
  va_list a;
  va_start(a, request);
  void *argument = va_arg(a, void *);
  va_end(a);
  REAL(ioctl);
  if (!is_tape(fd)) return real(fd, request, argument);
  if (request == MTIOCTOP) return tape_operate(argument);
  if (request == MTIOCGET) return tape_get(argument);
  if (request == MTIOCPOS) return tape_tell(argument);
  return fail(ENOTTY);
}
static int access_of_tape(void) {
  struct drive d;
  if (begin(&d)) return O_RDWR;
  int access = d.h.access;
  end(&d, 0);
  return access;
}
int fcntl(int fd, int command, ...) {
  va_list a;
  va_start(a, command);
  void *argument = va_arg(a, void *);
  va_end(a);
  if (command == F_GETFL && is_tape(fd)) return access_of_tape() | O_LARGEFILE;
  if (command == F_SETFL && is_tape(fd)) return 0; /* the mark is one of these flags */
  return real_fcntl(fd, command, argument);
}
int fcntl64(int fd, int command, ...) {
  va_list a;
  va_start(a, command);
  void *argument = va_arg(a, void *);
  va_end(a);
  return fcntl(fd, command, argument);
}

static int show(struct stat *s) {
  memset(s, 0, sizeof *s);
  s->st_dev = directory_dev;
  s->st_ino = directory_ino;
  s->st_mode = S_IFCHR | 0600;
  s->st_nlink = 1;
  s->st_rdev = makedev(9, 128);
  s->st_blksize = 4096;
  return 0;
}
int fstat(int fd, struct stat *s) { return is_tape(fd) ? show(s) : real_fstat(fd, s); }
int fstat64(int fd, struct stat64 *s) { return fstat(fd, (struct stat *)s); }
int stat(const char *path, struct stat *s) { REAL(stat); return is_node(path) ? show(s) : real(path, s); }
int stat64(const char *path, struct stat64 *s) { return stat(path, (struct stat *)s); }
int lstat(const char *path, struct stat *s) { REAL(lstat); return is_node(path) ? show(s) : real(path, s); }
int lstat64(const char *path, struct stat64 *s) { return lstat(path, (struct stat *)s); }
int fstatat(int at, const char *path, struct stat *s, int flags) {
  REAL(fstatat);
  if (is_node(path) || (!*path && (flags & AT_EMPTY_PATH) && is_tape(at))) return show(s);
  return real(at, path, s, flags);
}
int fstatat64(int at, const char *path, struct stat64 *s, int flags) { return fstatat(at, path, (struct stat *)s, flags); }
int __xstat(int version, const char *path, struct stat *s) { (void)version; return stat(path, s); }
int __xstat64(int version, const char *path, struct stat64 *s) { (void)version; return stat64(path, s); }
int __lxstat(int version, const char *path, struct stat *s) { (void)version; return lstat(path, s); }
int __lxstat64(int version, const char *path, struct stat64 *s) { (void)version; return lstat64(path, s); }
int __fxstat(int version, int fd, struct stat *s) { (void)version; return fstat(fd, s); }
int __fxstat64(int version, int fd, struct stat64 *s) { (void)version; return fstat64(fd, s); }
int access(const char *path, int mode) { REAL(access); return is_node(path) ? 0 : real(path, mode); }
int faccessat(int at, const char *path, int mode, int flags) { REAL(faccessat); return is_node(path) ? 0 : real(at, path, mode, flags); }
int statx(int at, const char *restrict path, int flags, unsigned int mask, struct statx *restrict s) {
  REAL(statx);
  if (!is_node(path) && !(!*path && is_tape(at))) return real(at, path, flags, mask, s);
  memset(s, 0, sizeof *s);
  s->stx_mask = STATX_BASIC_STATS;
  s->stx_mode = S_IFCHR | 0600;
  s->stx_nlink = 1;
  s->stx_rdev_major = 9;
  s->stx_rdev_minor = 128;
  return 0;
}
