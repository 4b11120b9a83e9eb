# SPDX-License-Identifier: LGPL-2.1-or-later
#
# The guest of the test bed: a "Linux kernel" of 1.5 KiB that never leaves real mode.
#
# QEMU loads it like any <kernel> (header "HdrS", protocol 2.02) and its boot ROM jumps to 0x1020:0 with the BIOS alive, so a real
# guest writes real disks through INT 13h, with no OS image, no extra disk, and nothing in the domain XML that a lock manager sees.
#
# Command line: 32 characters of identity, then one character of mode:
#   i  idle: halt for ever, never touch a disk
#   w  write sector 1 of every BIOS disk once per BIOS timer tick, 18 times a second (HLT in between: under a tenth of a CPU)
#   f  the same, flat out: a whole CPU
#
# Sector 1: magic "VLWRITER", u64 counter, 32 bytes identity, 16 bytes of the host the QEMU runs on, u64 failed writes so far.
# Identity lives in guest memory: it travels with a migration. The host's name is read anew before every round from the fw_cfg file
# opt/virtlease/host of the QEMU that runs the guest now, so the disk tells on which host its last writer ran.

        .code16
        .set    FW_SELECT, 0x510
        .set    FW_DATA, 0x511
        .set    FW_DIRECTORY, 0x19
        .set    CMDLINE_SEG, 0x2000     # where QEMU puts it for protocol >= 2.02

        .org    0x1f1
        .byte   3                       # setup sectors behind the first: code and buffer
        .org    0x1fe
        .word   0xaa55
        .org    0x200
        jmp     start
        .org    0x202
        .ascii  "HdrS"
        .word   0x0202
        .org    0x211
        .byte   1                       # LOADED_HIGH
        .org    0x270                   # QEMU writes into the header below

start:  push    %ds                     # entered as 0x1020:0 with DS = 0x1000: make CS = DS
        push    $1f
        lret
1:      cld
        push    %ds
        pop     %es
        mov     $CMDLINE_SEG, %ax
        mov     %ax, %fs
        xor     %si, %si
        mov     $identity, %di
2:      mov     %fs:(%si), %al
        mov     %al, (%di)
        inc     %si
        inc     %di
        cmp     $32, %si
        jb      2b
        mov     %fs:(%si), %al
        mov     %al, mode
        cmpb    $'i', %al
        jne     find
idle:   sti
        hlt
        jmp     idle

        # Find the selector of opt/virtlease/host in the fw_cfg directory.
find:   mov     $FW_DIRECTORY, %ax
        mov     $FW_SELECT, %dx
        out     %ax, %dx
        mov     $FW_DATA, %dx
        mov     $entry, %di
        mov     $4, %cx
        rep insb
        mov     entry+3, %bl            # number of files, big endian; a handful
3:      test    %bl, %bl
        jz      round                   # no such file: host stays blank
        dec     %bl
        mov     $FW_DATA, %dx
        mov     $entry, %di
        mov     $64, %cx
        rep insb
        mov     $entry+8, %si
        mov     $wanted, %di
        mov     $(wanted_end - wanted), %cx
        repe cmpsb
        jne     3b
        mov     entry+4, %ax
        xchg    %al, %ah
        mov     %ax, selector

round:  mov     selector, %ax
        test    %ax, %ax
        jz      4f
        mov     $FW_SELECT, %dx
        out     %ax, %dx
        mov     $FW_DATA, %dx
        mov     $host, %di
        mov     $16, %cx
        rep insb
4:      addl    $1, counter
        adcl    $0, counter+4
        mov     $0x40, %ax              # BIOS data area: number of disks
        mov     %ax, %fs
        mov     %fs:0x75, %cl
        mov     $0x80, %dl
5:      test    %cl, %cl
        jz      6f
        push    %cx
        push    %dx
        push    %ds
        pop     %es
        mov     %ds, packet+6
        mov     $packet, %si
        mov     $0x4300, %ax
        int     $0x13
        jnc     7f
        addl    $1, failures
        adcl    $0, failures+4
7:      pop     %dx
        pop     %cx
        inc     %dl
        dec     %cl
        jmp     5b
6:      cmpb    $'f', mode
        je      round
        sti
        hlt
        jmp     round

mode:   .byte   0
selector:
        .word   0
wanted: .asciz  "opt/virtlease/host"
wanted_end:
        .balign 4
packet: .byte   16, 0
        .word   1, sector, 0
        .quad   1
entry:  .fill   64

        .org    0x600
sector: .ascii  "VLWRITER"
counter:
        .quad   0
identity:
        .fill   32
host:   .fill   16
failures:
        .quad   0
        .org    0x800
        .fill   512                     # a "protected-mode kernel": never run, but QEMU wants one
