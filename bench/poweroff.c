/* The first process of a machine that is only to boot: it turns it off. */
#include <sys/reboot.h>

int main(void)
{
    reboot(RB_POWER_OFF);
    return 1;
}
